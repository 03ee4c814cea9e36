//! A pickle: an answer for any bytes, of which every value can be looked at, in memory that the bytes bound.
#![no_main]

use ckpt_fuzz::pickle::{self, Node};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(pickle) = pickle::read(data) else { return };
    assert!(pickle.consumed() <= data.len());
    // Values are made by bytes; a few stand at the beginning of every pickle.
    assert!(pickle.nodes().count() <= 3 * data.len() + 5);
    let mut todo = vec![(pickle.root(), 0)];
    let mut looks = 0;
    while let Some((id, depth)) = todo.pop() {
        looks += 1;
        if looks > 10_000 || depth > 50 {
            continue;
        }
        let _ = (pickle.text(id), pickle.global(id), pickle.int(id), pickle.long(id), pickle.get(id, "a"));
        let inner = pickle.items(id).chain(pickle.pairs(id).flat_map(|(key, value)| [key, value]));
        todo.extend(inner.chain(pickle.tuple(id).unwrap_or_default().iter().copied()).map(|id| (id, depth + 1)));
        if let Some(object) = pickle.object(id) {
            todo.extend(
                [Some(object.callee), Some(object.args), object.state].into_iter().flatten().map(|id| (id, depth + 1)),
            );
        }
        if let Node::Persistent(of) = pickle.node(id) {
            todo.push((of, depth + 1));
        }
    }
});
