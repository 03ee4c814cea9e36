//! Values of options: what a text has to look like, and what it means. Never runs anything.

/// `KEY=VALUE`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has to be KEY=VALUE".into()),
    }
}

/// `KEY=NUMBER`.
pub fn metric(text: &str) -> Result<(String, f64), String> {
    let (key, value) = key_value(text)?;
    Ok((key, value.parse().map_err(|_| format!("{value:?} is no number"))?))
}

/// A size in bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("b", 1),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
    ];
    let bad = || "it has to be a size such as 500MB, 2GB or 0".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let unit = unit.trim_start().to_lowercase();
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
    // Whole numbers exactly; a fraction such as 1.5GB needs no more than a double has.
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(factor).ok_or_else(|| "that is more than a disk can have".into());
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let bytes = number * factor as f64;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err("that is more than a disk can have".into()) }
}

/// Seconds, up to a day.
pub fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    let day = 86_400.0;
    if !(0.0..=day).contains(&seconds) {
        return Err("it has to be from 0 to a day".into());
    }
    Ok(std::time::Duration::from_secs_f64(seconds))
}

/// An age in milliseconds.
pub fn age(text: &str) -> Result<i64, String> {
    let span: jiff::Span = text.parse().map_err(|_| "it has to be an age such as 7d, 12h or 30m".to_owned())?;
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| "months and years have no fixed length; give weeks or days".to_owned())?;
    if duration.is_negative() {
        return Err("an age can't be negative".into());
    }
    i64::try_from(duration.as_millis()).map_err(|_| "that age is too long".to_owned())
}
