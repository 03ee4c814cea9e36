//! Which runs a mount shows. Pure: never knows which there are.

use globset::{Glob, GlobMatcher};

use crate::Result;

/// A glob over names of runs.
pub struct Runs {
    text: String,
    matcher: GlobMatcher,
}

impl Runs {
    /// Reads a glob.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(text: &str) -> Result<Self> {
        let invalid = |error: globset::Error| format!("{text:?} is no glob: {}", error.kind());
        let glob = Glob::new(text).map_err(|error| ckpt_store::Error::Invalid(invalid(error)))?;
        Ok(Self { text: text.to_owned(), matcher: glob.compile_matcher() })
    }

    /// Whether a run is shown. As everywhere, one whose name is the glob's very text is meant whatever its characters mean.
    pub fn show(&self, run: &str) -> bool {
        self.text == run || self.matcher.is_match(run)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_glob_and_its_very_text_are_meant() {
        let runs = Runs::new("a[1]*").unwrap();
        assert!(runs.show("a1/b") && runs.show("a[1]*") && !runs.show("a[1]") && !runs.show("b"));
        assert!(Runs::new("a[").is_err());
    }
}
