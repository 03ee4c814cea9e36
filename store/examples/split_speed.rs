//! Measures how long it takes to find a file's segments: `split_speed FILE...` prints one line of JSON for each, seconds
//! being the median of nine passes on one thread, with the file in the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use ckpt_store::split::{self, Kind, Source};

const PASSES: usize = 9;

struct Disk {
    file: File,
    size: u64,
}

impl Source for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        return Err("usage: split_speed FILE...".into());
    }
    for path in paths {
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        let source: Arc<dyn Source> = Arc::new(Disk { file, size });
        let mut seconds = Vec::new();
        let mut found = split::split(&source)?;
        for _ in 0..PASSES {
            let start = Instant::now();
            found = split::split(&source)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let is_tensor = |kind: &Kind| matches!(kind, Kind::Tensor { .. });
        let tensors = found.segments.iter().filter(|segment| is_tensor(&segment.kind)).count() + found.views.len();
        let line = serde_json::json!({
            "format": found.format.to_string(), "bytes": size, "tensors": tensors, "seconds": seconds[PASSES / 2],
        });
        println!("{line}");
    }
    Ok(())
}
