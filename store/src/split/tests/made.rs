//! Files of the formats of this decade, built by hand so that every field can lie.

use super::samples::bytes;

/// A `.npy` of version 1, 2 or 3 with this header and these elements.
pub fn npy(major: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = b"\x93NUMPY".to_vec();
    file.extend([major, 0]);
    let prefix = if major == 1 { 10 } else { 12 };
    let padding = (64 - (prefix + header.len() + 1) % 64) % 64;
    let len = header.len() + padding + 1;
    if major == 1 {
        file.extend((len as u16).to_le_bytes())
    } else {
        file.extend((len as u32).to_le_bytes())
    }
    file.extend(header.as_bytes());
    file.extend(vec![b' '; padding]);
    file.push(b'\n');
    file.extend(data);
    file
}

/// What NumPy writes for an array of this type and shape.
pub fn array(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy(1, &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), data)
}

/// A tensor of a GGUF file.
pub struct Block<'a> {
    pub name: &'a str,
    /// As in the file: the dimension whose neighbors lie side by side stands first.
    pub dims: &'a [u64],
    pub kind: u32,
    pub data: Vec<u8>,
    /// Added to its offset.
    pub moved: u64,
}

impl<'a> Block<'a> {
    pub fn new(name: &'a str, dims: &'a [u64], kind: u32, data: Vec<u8>) -> Self {
        Self { name, dims, kind, data, moved: 0 }
    }
}

pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// One value of GGUF's metadata: key, type, and the value's bytes.
pub fn value(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

/// Some of what every model has: a name, a vocabulary, scores and flags.
pub fn metadata(words: u64) -> Vec<Vec<u8>> {
    let list = |kind: u32, count: u64, items: Vec<u8>| [&kind.to_le_bytes()[..], &count.to_le_bytes(), &items].concat();
    let vocabulary = (0..words).flat_map(|nr| text(&format!("word{nr}"))).collect();
    let scores = (0..words).flat_map(|nr| (nr as f32).to_le_bytes()).collect();
    vec![
        value("general.architecture", 8, &text("llama")),
        value("tokenizer.ggml.tokens", 9, &list(8, words, vocabulary)),
        value("tokenizer.ggml.scores", 9, &list(6, words, scores)),
        value("llama.context_length", 4, &4096_u32.to_le_bytes()),
        value("general.file_size", 10, &7_u64.to_le_bytes()),
        value("tokenizer.ggml.add_bos_token", 7, &[1]),
    ]
}

/// A GGUF file of version 3.
pub fn gguf(values: &[Vec<u8>], alignment: usize, blocks: &[Block<'_>]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((blocks.len() as u64).to_le_bytes());
    file.extend((values.len() as u64).to_le_bytes());
    file.extend(values.concat());
    let (mut offset, padded) = (0_usize, |len: usize| len.next_multiple_of(alignment));
    for Block { name, dims, kind, data, moved } in blocks {
        file.extend(text(name));
        file.extend((dims.len() as u32).to_le_bytes());
        file.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        file.extend(kind.to_le_bytes());
        file.extend((offset as u64).wrapping_add(*moved).to_le_bytes());
        offset += padded(data.len());
    }
    file.resize(padded(file.len()), 0);
    for block in blocks {
        file.extend(&block.data);
        file.resize(padded(file.len()), 0);
    }
    file
}

/// One member of a tar: its header by this function, its bytes, and zeros up to the next block.
pub fn tar_member(path: &str, data: &[u8], set: impl Fn(&mut ::tar::Header)) -> Vec<u8> {
    let mut header = ::tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(::tar::EntryType::Regular);
    set(&mut header);
    header.set_cksum();
    let mut file = header.as_bytes().to_vec();
    file.extend(data);
    file.resize(file.len().next_multiple_of(512), 0);
    file
}

/// A tar of these members, with its end.
pub fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

/// A tar as the `tar` crate writes it, long names included.
pub fn tar_by_crate(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (path, data) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// 64 KB of random bytes: a tensor that has chunks of its own.
pub fn large(seed: u64) -> Vec<u8> {
    bytes(seed, 64_000)
}

/// A message of an object header: its kind and its body.
pub type Message = (u8, Vec<u8>);

/// An HDF5 file in the making: superblock of version 2, headers of version 2, no checksums.
pub struct Hdf5(Vec<u8>);

impl Hdf5 {
    pub fn new() -> Self {
        Self(vec![0; 48])
    }

    /// Where the next object will be.
    pub fn next(&self) -> u64 {
        self.0.len() as u64
    }

    /// Adds an object and gives its address.
    pub fn add(&mut self, object: &[u8]) -> u64 {
        let at = self.next();
        self.0.extend(object);
        at
    }

    /// Ends the file with a root group of these messages.
    pub fn finish(mut self, messages: &[Message]) -> Vec<u8> {
        let root = self.add(&header(messages));
        let end = self.next();
        let superblock =
            [&b"\x89HDF\r\n\x1a\n\x02\x08\x08\0"[..], &[0; 8], &[0xff; 8], &end.to_le_bytes(), &root.to_le_bytes()];
        self.0[..44].copy_from_slice(&superblock.concat());
        self.0
    }
}

/// An object header.
pub fn header(messages: &[Message]) -> Vec<u8> {
    let body = |(kind, body): &Message| [&[*kind][..], &(body.len() as u16).to_le_bytes(), &[0], body].concat();
    let messages: Vec<u8> = messages.iter().flat_map(body).collect();
    [&b"OHDR\x02\x02"[..], &(messages.len() as u32).to_le_bytes(), &messages, &[0; 4]].concat()
}

/// A hard link.
pub fn link(name: &str, address: u64) -> Message {
    (6, [&[1, 0, name.len() as u8][..], name.as_bytes(), &address.to_le_bytes()].concat())
}

/// A dataspace.
pub fn simple(dims: &[u64]) -> Message {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    (1, [&[2, dims.len() as u8, 0, 1][..], &dims_bytes].concat())
}

/// The type of single precision.
pub fn float() -> Message {
    (3, vec![0x11, 0x20, 31, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0])
}

/// The place of a contiguous dataset.
pub fn layout(at: u64, len: u64) -> Message {
    (8, [&[3, 1][..], &at.to_le_bytes(), &len.to_le_bytes()].concat())
}

/// The header of a contiguous dataset of single precision.
pub fn contiguous(dims: &[u64], at: u64, len: u64) -> Vec<u8> {
    header(&[simple(dims), float(), layout(at, len)])
}
