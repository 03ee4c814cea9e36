//! What a tensor that is made of others consists of, and what those are called. Never looks deeper than one call.

use crate::pickle::{Id, Pickle};

/// The name of a part below that of the whole; none for a part that goes by the whole's name.
pub(super) type Word = Option<&'static str>;

/// The tensors among the arguments of a function of torch, or nothing if it is none that makes one tensor of others.
pub(super) fn of_call(pickle: &Pickle<'_>, function: &str, args: &[Id]) -> Option<Vec<(Word, Id)>> {
    let named = |words: &[&'static str], ids: &[Id]| {
        words.iter().map(|word| Some(*word)).zip(ids.iter().copied()).collect::<Vec<_>>()
    };
    Some(match function {
        "_rebuild_parameter"
        | "_rebuild_parameter_with_state"
        | "_rebuild_device_tensor_from_cpu_tensor"
        | "restore_type_tag" => args.first().map(|first| (None, *first)).into_iter().collect(),
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => {
            let [layout, data, ..] = args else { return Some(Vec::new()) };
            named(words_of(layout_of(pickle, *layout)), pickle.tuple(*data).unwrap_or_default())
        }
        "_rebuild_nested_tensor" => named(&["values", "sizes", "strides", "storage_offsets"], args),
        "_rebuild_meta_tensor_no_storage" | "_rebuild_wrapper_subclass" => Vec::new(),
        _ => return None,
    })
}

/// The tensors among the parameters of a quantizer: `(scheme, scales, zero points, axis)`.
pub(super) fn of_quantizer(pickle: &Pickle<'_>, args: &[Id]) -> Vec<(Word, Id)> {
    let parameters = args.get(4).and_then(|parameters| pickle.tuple(*parameters)).unwrap_or_default();
    match parameters {
        [_, scales, zero_points, _axis] => vec![(Some("scales"), *scales), (Some("zero_points"), *zero_points)],
        _ => Vec::new(),
    }
}

/// The name of a `torch.layout`, which pickles as a call with it.
fn layout_of<'p>(pickle: &'p Pickle<'_>, node: Id) -> &'p str {
    let args = pickle.object(node).and_then(|object| pickle.tuple(object.args));
    let name = args.and_then(|args| pickle.text(*args.first()?)).or_else(|| pickle.global(node).map(|(_, name)| name));
    name.map_or("", |name| name.strip_prefix("torch.").unwrap_or(name))
}

fn words_of(layout: &str) -> &'static [&'static str] {
    match layout {
        "sparse_coo" => &["indices", "values"],
        "sparse_csr" | "sparse_bsr" => &["crow_indices", "col_indices", "values"],
        "sparse_csc" | "sparse_bsc" => &["ccol_indices", "row_indices", "values"],
        _ => &["0", "1", "2"],
    }
}
