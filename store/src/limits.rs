//! Every bound of the store in one place, each with its unit and its reason. Never a tunable at run time: changing one
//! of those marked *format* makes old and new stores share fewer chunks, it never makes one unreadable.

use std::time::Duration;

/// The most raw bytes of one chunk. *Format.* Large enough that ids and records cost 0.01 %, small enough that a
/// changed row of an embedding costs little and that a chunk decodes inside the processor's cache.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Tensors smaller than this share chunks with their neighbours. *Format.* A record of its own costs about 250 bytes on
/// disk.
pub const SMALL_TENSOR_BYTES: u64 = 32 << 10;

/// The most bytes of small tensors in one shared chunk. *Format.* One that trains makes its neighbours be stored again.
pub const SMALL_GROUP_BYTES_MAX: usize = 256 << 10;

/// Literals (headers, padding, short files) of a checkpoint up to this many bytes stand inline in its manifest.
/// *Format.*
pub const INLINE_BYTES_MAX: usize = 4 << 10;

/// Minimum, average and maximum bytes of a content-defined chunk of an opaque file. *Format.*
pub const CDC_BYTES: (usize, usize, usize) = (64 << 10, 256 << 10, CHUNK_BYTES_MAX);

/// Minimum, average and maximum bytes of a content-defined chunk of the gathered literals. *Format.* Smaller than
/// [`CDC_BYTES`], so that one changed small file among thousands does not cost much more than itself.
pub const LITERAL_CDC_BYTES: (usize, usize, usize) = (16 << 10, 64 << 10, 256 << 10);

/// Opaque files up to this many bytes go with the literals. *Format.*
pub const SMALL_FILE_BYTES: u64 = 64 << 10;

/// Literals above this many bytes (a pickle that holds arrays) are cut for themselves with [`CDC_BYTES`]. *Format.* In
/// the literal stream they would be cut four times as fine.
pub const LITERAL_BYTES_MAX: u64 = 4 << 20;

/// The most bytes of a safetensors header that are parsed. The format allows 100 MB; a hostile header of 32 MiB (half a
/// million tensors) takes 130 MB of memory to parse, real ones have at most a few MB.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 32 << 20;

/// The most dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 64;

/// The most bytes that a tensor may have which an expansion (a stride of 0) makes larger than what is stored.
pub const EXPANDED_BYTES_MAX: u64 = 16 << 30;

/// The most checkpoints of its run that the tensors of one are compared with.
pub const SHARED_LOOKS_MAX: usize = 16;

/// The most bytes of small tensors that are read of a checkpoint to say which of them changed: what a command that only
/// shows something may take its time for.
pub const SINCE_READ_BYTES_MAX: u64 = 32 << 20;

/// The most tensors of one GGUF or HDF5 file that are split at; one with more is cut by content.
pub const TENSORS_MAX: usize = 200_000;

/// The most bytes of a tensor's name in a GGUF file. ggml itself has 64.
pub const TENSOR_NAME_BYTES_MAX: u64 = 4096;

/// The most bytes of an element type's name that are kept: NumPy writes the fields of a structure as one text.
pub const TYPE_NAME_BYTES_MAX: usize = 255;

/// The most bytes of a `.npy` header that are parsed. NumPy itself refuses to read more than 10,000 unasked.
pub const NPY_HEADER_BYTES_MAX: u64 = 64 << 10;

/// The most bytes of a GGUF header that are passed over. A vocabulary of 256,000 words with its merges takes some 12
/// MB.
pub const GGUF_HEADER_BYTES_MAX: u64 = 128 << 20;

/// The most bytes that are asked for to find the datasets of an HDF5 file: some 10 KB for each of as many as we take.
pub const HDF5_READ_BYTES_MAX: u64 = 1 << 30;

/// The most messages of one object of an HDF5 file: its attributes, and the links of a small group.
pub const HDF5_MESSAGES_MAX: usize = 1 << 16;

/// How deep groups of an HDF5 file lie in each other. Keras has one for each layer in a layer.
pub const HDF5_DEPTH_MAX: usize = 64;

/// The most bytes of all paths in an HDF5 file: short names in a deep group make long ones.
pub const HDF5_NAMES_BYTES_MAX: u64 = 64 << 20;

/// The most headers of a tar that are read, those of its extensions included.
pub const TAR_HEADERS_MAX: usize = 400_000;

/// The most bytes of a long name or a pax extension in a tar that are read.
pub const TAR_EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// How deep containers are split that lie in each other: a safetensors in a zip in a tar.
pub const SPLIT_DEPTH_MAX: usize = 3;

/// The most bytes of a file's zip directories that are read.
pub const ZIP_DIRECTORY_BYTES_MAX: u64 = 64 << 20;

/// The most records of a zip directory that are split at; an archive with more is cut by content.
pub const ZIP_RECORDS_MAX: usize = 200_000;

/// The most bytes of a pickle that are read. The names, shapes and places of 150,000 tensors take 20 MB.
pub const PICKLE_BYTES_MAX: usize = 64 << 20;

/// The most values of a pickle; also the most entries of its stack, its memo, its tuples, its lists and dicts. One
/// tensor is 13 values, so this admits 150,000 of them, and bounds what the longest pickle takes to read at some 300
/// MB.
pub const PICKLE_NODES_MAX: usize = 2 << 20;

/// The most bytes of a text in a pickle that is read as text: no name is longer, and a longer one that is told ten
/// thousand times would be compared as often.
pub const PICKLE_TEXT_BYTES_MAX: usize = 1024;

/// The most values that are looked at in search of a pickle's tensors. A value may be looked at under many names:
/// twenty lists that hold each other twice have a million.
pub const PICKLE_LOOKS_MAX: usize = 2 << 20;

/// The most tensors of a pickle; one may stand under many names.
pub const PICKLE_TENSORS_MAX: usize = 250_000;

/// The most containers in each other in which a pickle's tensors are sought.
pub const PICKLE_DEPTH_MAX: usize = 100;

/// The most bytes of the names of a pickle's tensors, all together.
pub const PICKLE_NAMES_BYTES_MAX: usize = 64 << 20;

/// The most bytes that are first read of a file that begins with pickles of unknown length; eight times as many, as
/// long as they don't suffice.
pub const PICKLE_WINDOW_BYTES: usize = 256 << 10;

/// A pack is sealed once it holds this many bytes.
pub const PACK_BYTES_TARGET: u64 = 128 << 20;

/// The most records of one pack, so that a trailer stays near 10 MB however small the chunks are.
pub const PACK_RECORDS_MAX: usize = 128 << 10;

/// The most bytes of a pack that is still read: a target-size pack plus one chunk, its padding and the largest trailer.
pub const PACK_BYTES_MAX: u64 = 256 << 20;

/// The most bytes of a manifest or catalog as stored and as unpacked. A manifest of 100 TB of one-MiB chunks unpacks to
/// 4 GB; this admits 20 TB in one checkpoint and still refuses a decompression bomb.
pub const OBJECT_BYTES_MAX: u64 = 1 << 30;

/// A manifest or catalog unpacks to at most this many bytes for each of its payload, or to [`UNPACKED_BYTES_FREE`].
/// *Format.* Ids of chunks don't compress, so real ones stay below 10; a bomb of 32 KB that unpacks to 1 GiB would take
/// many times that once it is parsed.
pub const UNPACK_RATIO_MAX: u64 = 64;

/// What a manifest or catalog may unpack to whatever its payload: small ones may well repeat a lot. *Format.*
pub const UNPACKED_BYTES_FREE: u64 = 16 << 20;

/// The most bytes of a session's file that are read: `verify` pins a million checkpoints with 40 MB.
pub const SESSION_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of HEAD that are read.
pub const HEAD_BYTES_MAX: u64 = 64 << 20;

/// Changes that HEAD carries before they are folded into a new catalog. Each commit rewrites HEAD, so this bounds that
/// cost.
pub const HEAD_ENTRIES_MAX: usize = 64;

/// Chunks whose ids are looked up in one batch. One opening of the index costs about 5 ms, the table of one window 300
/// KB; a window is at most 4 GiB of source, small enough to be still in the page cache when its new chunks are read
/// again.
pub const WINDOW_CHUNKS: usize = 4096;

/// The most places of damage that a report lists; the rest are counted. More than anybody reads, and some 10 MB.
pub const DAMAGE_LISTED_MAX: usize = 10_000;

/// Bytes of decoded chunks that an open checkpoint keeps for reads to come: what is read ahead, twice, so that it is
/// not pushed out before it is read, and the headers between a file's tensors, which are in few chunks.
pub const CACHE_BYTES: usize = 64 << 20;

/// Bytes of a cache from which on another lock is worth having: two threads meet at one of two, and each must still
/// hold what is read ahead.
pub const CACHE_SHARD_BYTES: usize = 64 << 20;

/// The most locks of one cache.
pub const CACHE_SHARDS_MAX: usize = 16;

/// Threads' buffers that a cache keeps, 2 MiB each: as many as read a mounted checkpoint at a time.
pub const IDLE_BUFFERS_MAX: usize = 16;

/// The most bytes that are decoded ahead of one who reads a file in small pieces: as many chunks as keep 16 processors
/// busy twice.
pub const READ_AHEAD_BYTES: u64 = 32 << 20;

/// Bytes that are decoded ahead of one who was first seen to read on; twice as many each time after that.
pub const READ_AHEAD_FIRST_BYTES: u64 = 4 << 20;

/// A read of at least this many bytes decodes nothing ahead: it has enough chunks of its own, which go to where it
/// wants them without a copy.
pub const LARGE_READ_BYTES: u64 = 4 << 20;

/// Chunks that a read announces, so that another read waits for them and does not decode them as well. More are those
/// of a large read, which nobody should have to wait for to its end.
pub const ANNOUNCED_CHUNKS_MAX: usize = 64;

/// Chunks that the answer to a read may hold whole; of further ones little parts are copied. A read of 1 MiB meets more
/// only where tensors are small.
pub const HELD_SLICES_MAX: usize = 64;

/// How long a chunk that could not be given back is not looked at again: a program that passes over damage in pieces of
/// 512 bytes asks two thousand times for one chunk, each of which would read and hash all of it. As long, what mends it
/// is not seen.
pub const UNREADABLE_REMEMBERED: Duration = Duration::from_secs(1);

/// Runs of bytes that are put in rows at a time: their places take 4 MiB, and as many elements of 4 bytes are one MiB.
pub const GATHERED_RUNS_MAX: u64 = 256 << 10;

/// Blocks that are put in rows at a time of a tensor that is larger than the cache, as far as they fit into a quarter
/// of that: their places take 32 MiB.
pub const GATHERED_BLOCKS_MAX: u64 = 8;

/// Packs that a checkpoint leaves open between two reads. One that gc has deleted keeps its room, 128 MiB, as long as
/// it is open.
pub const IDLE_PACKS_MAX: usize = 8;

/// The most missing chunks that are remembered by their ids, some 150 MB: where more are lost, `repair --from` fetches
/// these and the next one goes on.
pub const MISSING_MAX: usize = 3_000_000;

/// The most policies of a store: each gc matches each run's name against all of them.
pub const POLICIES_MAX: usize = 1000;

/// Bytes of a disk that puts leave free when nobody says how many: the smaller of this and one
/// [`RESERVE_SHARE`]th of the disk. Other programs on the disk go on writing while somebody makes room.
pub const RESERVE_BYTES: u64 = 1_000_000_000;

/// The part of a small disk that puts leave free: one hundredth.
pub const RESERVE_SHARE: u64 = 100;

/// Bytes of the file that is given up so that gc can work on a full disk. What gc must write there: a session's file
/// (one block), HEAD three times (each at most 64 changes: 50 KB), and what RocksDB needs to forget packs (a log and a
/// table of together about 1 MB). Larger where a catalog to be folded is.
pub const RESERVE_FILE_BYTES: u64 = 4 << 20;

/// The part of a small disk that the reserve file may take: one sixteenth.
pub const RESERVE_FILE_SHARE: u64 = 16;

/// Bytes of the reserve file that a reader takes on a full disk for its session's file: a block for that, which has
/// room for 60 pins, and one for a directory that grows. All readers together leave half of the file, which is more
/// than gc needs.
pub const RESERVE_LENT_BYTES: u64 = 8192;

/// How often a reader takes that much, where others fill a disk so quickly that they have it first.
pub const RESERVE_LENT_TIMES: usize = 8;

/// New chunks that are encoded to estimate how all of them compress, when they would not fit as they are. 16 MiB: 10
/// ms.
pub const SAMPLE_CHUNKS: usize = 16;

/// Bytes that a put writes besides chunks and the catalog: a session, and the rounding up of manifest, HEAD and packs
/// to whole blocks. The index is not counted: a put succeeds without it.
pub const PUT_OVERHEAD_BYTES: u64 = 16 << 10;

/// The most metrics that are taken from a name or a log.
pub const NAMED_METRICS_MAX: usize = 64;

/// The most bytes of a `trainer_state.json` that are read. One line of its log has about 150 bytes: this is a log of
/// 400,000.
pub const TRAINER_STATE_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of a run's name, a tag, a metric's or a metadata key.
pub const NAME_BYTES_MAX: usize = 255;

/// The most bytes of one path inside a checkpoint.
pub const PATH_BYTES_MAX: usize = 4096;

/// The most files of one checkpoint.
pub const FILES_MAX: usize = 10_000_000;

/// How often a commit that lost the race for HEAD tries again before it reports the store as busy.
pub const COMMIT_ATTEMPTS_MAX: usize = 1000;

/// A pack of which more than this many sixteenths of the payload are dead is rewritten. At half, the copy costs as much
/// as it frees; below, a store would be copied again and again for little.
pub const REPACK_DEAD_IN_16: u64 = 8;

/// The most bytes that one gc copies: some 20 seconds of a slow disk. What is left is for the next one.
pub const REPACK_BYTES_MAX: u64 = 8_000_000_000;

/// Room that gc leaves on the disk while it copies, for HEAD, the index and whoever else writes.
pub const REPACK_ROOM_SPARE_BYTES: u64 = 4 << 20;

/// Packs below this many bytes count as small: a sixteenth of a full one.
pub const SMALL_PACK_BYTES: u64 = PACK_BYTES_TARGET / 16;

/// With more small packs than this, gc merges them. Each pack costs an open file for whoever reads it and a look at its
/// trailer for each gc; fewer are not worth a copy.
pub const SMALL_PACKS_MAX: usize = 64;

/// Packs that gc deletes at once: they are listed in HEAD meanwhile, 40 bytes each.
pub const DELETE_PACKS_MAX: usize = 1024;

/// Chunks whose CRC-32 is remembered between two saves from memory; 256 Ki of them are 256 GiB of tensors and take 16
/// MB.
pub const SUMS_MAX: usize = 256 << 10;

/// Bytes that a thread asks for at once of a source that is not in this process's memory, such as a GPU's: a multiple
/// of `CHUNK_BYTES_MAX`, for each time costs some 100 microseconds. 16 threads hold 64 MB so.
pub const FAR_BYTES: usize = 4 << 20;

/// Bytes of small records that an archive around memory keeps as it summed them up: some thousand of them, such as the
/// counters and buffers of a model, which come from a GPU once and not for each time that they are read.
pub const SMALL_COPIES_BYTES: u64 = 64 << 20;
