//! A catalog, from its payload as it is once unpacked.
#![no_main]

use ckpt_fuzz::format::catalog::Catalog;
use ckpt_fuzz::{CatalogId, SessionId, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let id = CatalogId::from_bytes(ckpt_fuzz::ID);
    let Ok(catalog) = Catalog::from_bytes(id, &sealed(b"CKPTCATA", data)) else { return };
    let bytes = catalog.to_bytes(id, SessionId::from_bytes(ckpt_fuzz::ID)).expect("what was read can be written");
    assert_eq!(
        Catalog::from_bytes(id, &bytes).expect("what was written can be read").entries.len(),
        catalog.entries.len()
    );
});
