//! A log in which one cause stands once, however often it is met; and what an error says with all that led to it. Never
//! holds more than a bounded number of lines.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Log;
use crate::limits::{TOLD_AGAIN, TOLD_LINES_MAX};

/// Such a log.
pub struct Told {
    log: Arc<dyn Log>,
    lines: Mutex<HashMap<String, Instant>>,
}

impl Told {
    /// One in which nothing stands yet.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log, lines: Mutex::default() }
    }

    /// Says why something failed, unless that was said lately. Where too much was, it is left out.
    pub fn once(&self, why: &str) {
        if self.is_new(why, TOLD_AGAIN) {
            self.log.line(why);
        }
    }

    /// Says something that does not come again and again.
    pub fn line(&self, text: &str) {
        self.log.line(text);
    }

    fn is_new(&self, why: &str, again: Duration) -> bool {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= TOLD_LINES_MAX {
            lines.retain(|_, since| since.elapsed() < again);
        }
        match lines.get(why) {
            Some(since) if since.elapsed() < again => false,
            None if lines.len() >= TOLD_LINES_MAX => false,
            _ => {
                lines.insert(why.to_owned(), Instant::now());
                true
            }
        }
    }
}

/// What an error says, and what its causes say.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Log for Lines {
        fn line(&self, text: &str) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
        }
    }

    #[test]
    fn one_cause_is_told_once_and_after_a_while_again() {
        let lines = Arc::new(Lines::default());
        let told = Told::new(Arc::clone(&lines) as Arc<dyn Log>);
        for _ in 0..3 {
            told.once("a");
            told.once("b");
        }
        let so_far = || lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(so_far(), ["a", "b"]);
        assert!(told.is_new("a", Duration::ZERO) && !told.is_new("a", TOLD_AGAIN));
        for nr in 0..10 * TOLD_LINES_MAX {
            told.once(&format!("disk {nr}"));
        }
        assert_eq!(so_far().len(), TOLD_LINES_MAX);
        // What is old makes room.
        assert!(told.is_new("c", Duration::ZERO));
        assert_eq!(told.lines.lock().unwrap_or_else(PoisonError::into_inner).len(), 1);
    }

    #[test]
    fn an_error_is_told_with_what_led_to_it() {
        let source = std::io::Error::from_raw_os_error(24);
        let error = ckpt_store::Error::Unavailable { action: "open", path: "a/pack".into(), source };
        assert_eq!(causes(&error), "can't open a/pack: Too many open files (os error 24)");
    }
}
