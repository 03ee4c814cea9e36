//! The bytes of a zip around its records, as torch's writer has them: no compression, no dates, the sums behind each record,
//! each record at a multiple of 64 bytes, and 64-bit ends always. Pure: knows records by name, size and sum alone.
//!
//! Written by hand because the readers that calculate where storages lie (`torch.load` with mmap and calculated offsets)
//! count on these very bytes, which no zip library writes. Source: `caffe2/serialize/inline_container.cc` and its miniz.

/// Names must be shorter, the archive's own name included.
pub const NAME_BYTES_MAX: usize = 1 << 15;

/// Where the bytes of a record may begin.
const ALIGNMENT: u64 = 64;
/// From here on a size or an offset stands in a 64-bit field of its own.
const LARGE: u64 = 0xffff_ffff;
/// Names are UTF-8.
const UTF_8: u16 = 0x0800;
/// The sum stands behind the record; torch's writer has none there for an empty one.
const SUM_BEHIND: u16 = 0x0008;
const LOCAL_BYTES: u64 = 30;

/// Writes what is around the records.
pub struct Writer {
    name: String,
    at: u64,
    directory: Vec<u8>,
    count: u64,
    /// Name and place of the record that has begun.
    open: (String, u64),
}

impl Writer {
    /// An archive of this name, which stands before each record's.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), at: 0, directory: Vec::new(), count: 0, open: (String::new(), 0) }
    }

    /// What comes before a record.
    pub fn begin(&mut self, name: &str, size: u64) -> Vec<u8> {
        let name = format!("{}/{name}", self.name);
        let wide = wide_fields(size, 0, self.at);
        let end = self.at + LOCAL_BYTES + (name.len() + wide.len() + 4) as u64;
        let padding = end.next_multiple_of(ALIGNMENT) - end;
        let mut bytes = Vec::with_capacity((end - self.at + padding) as usize);
        put_32(&mut bytes, 0x0403_4b50);
        put_16(&mut bytes, &[0, flags(size), 0, 0, 0]);
        // Sum and sizes follow the record.
        bytes.extend_from_slice(&[0; 12]);
        put_16(&mut bytes, &[name.len() as u16, (wide.len() as u64 + 4 + padding) as u16]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&wide);
        bytes.extend_from_slice(b"FB");
        put_16(&mut bytes, &[padding as u16]);
        bytes.resize(bytes.len() + padding as usize, b'Z');
        self.open = (name, self.at);
        self.at += bytes.len() as u64 + size;
        bytes
    }

    /// What comes behind it.
    pub fn end(&mut self, crc: u32, size: u64) -> Vec<u8> {
        let (name, offset) = std::mem::take(&mut self.open);
        let wide = wide_fields(size, size, offset);
        let mut bytes = Vec::with_capacity(24);
        if size > 0 {
            put_32(&mut bytes, 0x0807_4b50);
            put_32(&mut bytes, crc);
            for _ in 0..2 {
                if wide.is_empty() {
                    put_32(&mut bytes, size as u32);
                } else {
                    put_64(&mut bytes, size);
                }
            }
        }
        self.at += bytes.len() as u64;

        put_32(&mut self.directory, 0x0201_4b50);
        put_16(&mut self.directory, &[0, 0, flags(size), 0, 0, 0]);
        put_32(&mut self.directory, crc);
        put_32(&mut self.directory, size.min(LARGE) as u32);
        put_32(&mut self.directory, size.min(LARGE) as u32);
        put_16(&mut self.directory, &[name.len() as u16, wide.len() as u16, 0, 0, 0]);
        put_32(&mut self.directory, 0);
        put_32(&mut self.directory, offset.min(LARGE) as u32);
        self.directory.extend_from_slice(name.as_bytes());
        self.directory.extend_from_slice(&wide);
        self.count += 1;
        bytes
    }

    /// The directory and the ends, which close the file.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.directory;
        let len = bytes.len() as u64;
        put_32(&mut bytes, 0x0606_4b50);
        put_64(&mut bytes, 44);
        put_16(&mut bytes, &[798, 45]);
        put_32(&mut bytes, 0);
        put_32(&mut bytes, 0);
        for number in [self.count, self.count, len, self.at] {
            put_64(&mut bytes, number);
        }
        put_32(&mut bytes, 0x0706_4b50);
        put_32(&mut bytes, 0);
        put_64(&mut bytes, self.at + len);
        put_32(&mut bytes, 1);
        put_32(&mut bytes, 0x0605_4b50);
        let count = self.count.min(0xffff) as u16;
        put_16(&mut bytes, &[0, 0, count, count]);
        put_32(&mut bytes, len.min(LARGE) as u32);
        put_32(&mut bytes, self.at.min(LARGE) as u32);
        put_16(&mut bytes, &[0]);
        bytes
    }
}

/// The extra field with what does not fit into 32 bits; empty when all does. The stored size is the record's, but 0 before it,
/// where torch's writer doesn't know it yet.
fn wide_fields(size: u64, stored: u64, offset: u64) -> Vec<u8> {
    let mut fields = Vec::new();
    if size >= LARGE {
        put_64(&mut fields, size);
        put_64(&mut fields, stored);
    }
    if offset >= LARGE {
        put_64(&mut fields, offset);
    }
    if fields.is_empty() {
        return fields;
    }
    let mut bytes = Vec::with_capacity(28);
    put_16(&mut bytes, &[1, fields.len() as u16]);
    bytes.append(&mut fields);
    bytes
}

fn flags(size: u64) -> u16 {
    if size == 0 { UTF_8 } else { UTF_8 | SUM_BEHIND }
}

fn put_16(bytes: &mut Vec<u8>, numbers: &[u16]) {
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
}

fn put_32(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn put_64(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_le_bytes());
}
