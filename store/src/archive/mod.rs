//! What `torch.save` would write, around bytes that lie in memory: a source that is a file without being written anywhere.
//! Never copies a record that has chunks of its own, and never trusts that one stays as it is: whoever stores it checks what it
//! reads.

mod joined;
mod sums;
mod zip;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

pub use joined::{Joined, Literal};
pub use sums::Sums;

use self::sums::{Summed, sum_all};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::split::Source;

/// Decimal digits of the id that torch gives an archive.
const SERIALIZATION_ID_DIGITS: usize = 40;

/// One member of an archive, such as `data.pkl` or `data/0`.
pub struct Record {
    /// Its name, without the archive's own name before it.
    pub name: String,
    /// Its bytes.
    pub source: Arc<dyn Source>,
}

/// The zip that `torch.save` writes of these records, which are the pickle and the storages, in torch's order.
///
/// Each record is read once to name its chunks and to sum it up, by all threads of the pool; `sums` spares the summing
/// where the same chunk was summed before. The id that torch makes up of its records' sums is made of them here too, but not
/// by torch's own hash, so that the same object gives the same bytes, and all other bytes are torch's.
///
/// # Errors
/// Those of reading a record, which is named; [`Error::Interrupted`]; [`Error::Invalid`] for a name that a zip can't have.
pub fn torch_archive(name: &str, records: Vec<Record>, sums: &Sums, progress: &dyn Progress) -> Result<Joined> {
    if let Some(record) = records.iter().find(|record| record.name.len() + name.len() >= zip::NAME_BYTES_MAX) {
        return Err(Error::Invalid(format!("the record {:.60}… has too long a name", record.name)));
    }
    let sources: Vec<&dyn Source> = records.iter().map(|record| &*record.source).collect();
    let summed = sum_all(&sources, sums, progress, |record, error| read_error(&records[record].name, error))?;
    let mut id = blake3::Hasher::new();
    for (record, Summed { crc, .. }) in records.iter().zip(&summed) {
        id.update(&(record.name.len() as u64).to_le_bytes()).update(record.name.as_bytes()).update(&crc.to_le_bytes());
    }
    let mut writer = zip::Writer::new(name);
    let mut joined = Joined::default();
    for (Record { name, source }, Summed { crc, ids, copy }) in records.into_iter().zip(summed) {
        let size = source.size();
        joined.add(Literal(writer.begin(&name, size)));
        joined.add_hashed(copy.map_or(source, |bytes| Arc::new(Literal(bytes))), ids);
        joined.add(Literal(writer.end(crc, size)));
    }
    for (name, text) in [("version", "3\n".to_owned()), (".data/serialization_id", decimal(&id.finalize()))] {
        let crc = crc32fast::hash(text.as_bytes());
        let size = text.len() as u64;
        joined.add(Literal(writer.begin(name, size)));
        joined.add(Literal(text.into_bytes()));
        joined.add(Literal(writer.end(crc, size)));
    }
    joined.add(Literal(writer.finish()));
    Ok(joined)
}

fn read_error(record: &str, error: io::Error) -> Error {
    Error::Unavailable { action: "read", path: format!("the record {record} in memory"), source: error }
}

/// The digits of a hash, as many as torch's own id has.
fn decimal(hash: &blake3::Hash) -> String {
    let half = |from: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_bytes()[from..from + 8]);
        u64::from_le_bytes(bytes)
    };
    format!("{:0width$}{:0width$}", half(0), half(8), width = SERIALIZATION_ID_DIGITS / 2)
}
