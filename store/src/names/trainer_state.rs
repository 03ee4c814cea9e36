//! Transformers' `trainer_state.json`: the step, the best metric so far, and how the step was evaluated. Keeps nothing else of
//! a log that may be long, and believes nothing that is not a number where one should be.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::limits::{NAME_BYTES_MAX, NAMED_METRICS_MAX};

/// What a `trainer_state.json` says of the checkpoint that it lies in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainerState {
    /// The step.
    pub step: Option<u64>,
    /// The best metric of the training up to here, which need not be this checkpoint's.
    pub best_metric: Option<f64>,
    /// The `eval_…` values of this step, but for those that time the evaluation.
    pub metrics: BTreeMap<String, f64>,
}

#[derive(serde::Deserialize)]
struct Wire {
    global_step: Option<u64>,
    best_metric: Option<f64>,
    #[serde(default)]
    log_history: Log,
}

/// The evaluations of the last step that has any.
#[derive(Default)]
struct Log {
    step: Option<u64>,
    metrics: BTreeMap<String, f64>,
}

/// One line of the log.
struct Line(Log);

/// A number, or anything else, which is passed over.
struct Number(Option<f64>);

/// Reads the file's bytes; nothing when they are not what Transformers writes.
pub fn trainer_state(json: &[u8]) -> Option<TrainerState> {
    let Wire { global_step: step, best_metric, log_history } = serde_json::from_slice(json).ok()?;
    let is_of_step = step.is_some() && log_history.step == step;
    Some(TrainerState {
        step,
        best_metric: best_metric.filter(|metric| metric.is_finite()),
        metrics: if is_of_step { log_history.metrics } else { BTreeMap::new() },
    })
}

fn is_metric(name: &str) -> bool {
    let times = ["_runtime", "_per_second", "_time"].iter().any(|ending| name.ends_with(ending));
    let sound = name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control) && name.trim() == name;
    name.starts_with("eval_") && sound && !times
}

impl<'de> Deserialize<'de> for Log {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Lines;
        impl<'de> Visitor<'de> for Lines {
            type Value = Log;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of log lines")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut lines: A) -> Result<Log, A::Error> {
                let mut last = Log::default();
                while let Some(Line(line)) = lines.next_element()? {
                    if line.metrics.is_empty() || line.step.is_none() {
                        continue;
                    }
                    // Several data sets are evaluated in lines of their own, all of the same step.
                    if line.step == last.step {
                        last.metrics.extend(line.metrics);
                    } else {
                        last = line;
                    }
                    while last.metrics.len() > NAMED_METRICS_MAX {
                        last.metrics.pop_last();
                    }
                }
                Ok(last)
            }
        }
        from.deserialize_seq(Lines)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Line;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a line of the log")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Line, A::Error> {
                let mut line = Log::default();
                while let Some(name) = fields.next_key::<std::borrow::Cow<'_, str>>()? {
                    if name == "step" {
                        let Number(step) = fields.next_value()?;
                        line.step = step.filter(|step| *step >= 0.0 && step.fract() == 0.0).map(|step| step as u64);
                    } else if is_metric(&name) && line.metrics.len() < NAMED_METRICS_MAX {
                        let Number(value) = fields.next_value()?;
                        line.metrics.extend(value.map(|value| (name.into_owned(), value)));
                    } else {
                        fields.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Line(line))
            }
        }
        from.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(Some(value)))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(Some(value as f64)))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(Some(value as f64)))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Number, E> {
                Ok(Number(None))
            }
            fn visit_str<E>(self, _: &str) -> Result<Number, E> {
                Ok(Number(None))
            }
            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Number, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Number, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }
        }
        from.deserialize_any(Any)
    }
}
