//! How numbers look that nobody chose: with six digits, in columns, as a line of bars, in JSON. Never rounds what is shown as
//! exact.

use ckpt_store::Value;

/// Bars in a line at most.
const BARS_MAX: usize = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A number with six digits, in powers of ten where it is very small or large; `-` for what there is not.
pub fn figure(number: f64) -> String {
    if number.is_nan() {
        return "-".into();
    }
    if number == 0.0 || number.is_infinite() {
        return number.to_string();
    }
    let scientific = format!("{number:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match exponent {
        -4..6 => trim(&format!("{number:.*}", (5 - exponent) as usize)),
        _ => format!("{}e{exponent}", trim(digits)),
    }
}

/// A number that JSON has, or none.
pub fn finite(number: f64) -> Option<f64> {
    Some(number).filter(|number| number.is_finite())
}

/// An element in JSON: exact, null for what JSON has no number for, a complex number as a list of two.
pub fn value_json(value: Value) -> serde_json::Value {
    match value {
        Value::Single(number) => finite(number.into()).into(),
        Value::Double(number) => finite(number).into(),
        Value::Signed(number) => number.into(),
        Value::Unsigned(number) => number.into(),
        Value::Bool(is_true) => is_true.into(),
        Value::Complex(re, im) => vec![finite(re), finite(im)].into(),
    }
}

/// A line of bars over numbers, and what its lowest and highest bars stand for; none when there are no two numbers. Where
/// there are more numbers than bars, a bar is the mean of several; a gap is where there is none.
pub fn bars(numbers: &[f64]) -> Option<(String, f64, f64)> {
    let count = numbers.len().min(BARS_MAX);
    let mean = |bar: usize| {
        let part = &numbers[bar * numbers.len() / count..(bar + 1) * numbers.len() / count];
        let part: Vec<f64> = part.iter().copied().filter(|number| number.is_finite()).collect();
        (!part.is_empty()).then(|| part.iter().sum::<f64>() / part.len() as f64)
    };
    let means: Vec<Option<f64>> = (0..count).map(mean).collect();
    if means.iter().flatten().count() < 2 {
        return None;
    }
    let low = means.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |mean: Option<f64>| match mean {
        None => ' ',
        Some(_) if high <= low => BARS[3],
        Some(mean) => BARS[(((mean - low) / (high - low) * 8.0) as usize).min(7)],
    };
    Some((means.into_iter().map(bar).collect(), low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_six_digits() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (-0.5, "-0.5"),
            (1.0 / 3.0, "0.333333"),
            (123_456.7, "123457"),
            (1_234_567.0, "1.23457e6"),
            (0.000_123_456_7, "0.000123457"),
            (0.000_012_3, "1.23e-5"),
            (999_999.9, "1e6"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "-"),
            (100.0, "100"),
        ];
        for (number, text) in cases {
            assert_eq!(figure(number), text);
        }
    }

    #[test]
    fn bars_reach_from_the_lowest_to_the_highest() {
        assert_eq!(bars(&[0.0, 1.0, f64::NAN, 4.0, 8.0]), Some(("▁▂ ▅█".into(), 0.0, 8.0)));
        assert_eq!(bars(&[2.0, 2.0]), Some(("▄▄".into(), 2.0, 2.0)));
        assert_eq!(bars(&[2.0]), None);
        assert_eq!(bars(&[]), None);
        let many: Vec<f64> = (0..600).map(f64::from).collect();
        let (line, low, high) = bars(&many).unwrap_or_default();
        assert_eq!((line.chars().count(), low, high), (60, 4.5, 594.5));
    }
}
