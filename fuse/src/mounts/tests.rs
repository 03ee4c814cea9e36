//! Paths to mount points, through links and dots.

use super::*;

#[test]
fn the_place_of_a_directory_is_found_through_links_and_dots() {
    let dir = std::env::temp_dir()
        .canonicalize()
        .expect("a directory for scratch")
        .join(format!("place-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("real/deep")).expect("directories");
    std::os::unix::fs::symlink("real", dir.join("link")).expect("a link");
    std::os::unix::fs::symlink("link/deep", dir.join("two")).expect("a link");
    std::os::unix::fs::symlink("round", dir.join("round")).expect("a link");
    assert_eq!(place(&dir.join("link")).ok(), Some(dir.join("real")));
    assert_eq!(place(&dir.join("two/")).ok(), Some(dir.join("real/deep")));
    assert_eq!(place(&dir.join("real/deep/..")).ok(), Some(dir.join("real")));
    assert_eq!(place(&dir.join("missing")).ok(), Some(dir.join("missing")));
    assert!(place(&dir.join("round")).is_err() && place(&dir.join("missing/x")).is_err());
    assert_eq!(real(&dir.join("link/deep/new/x")), dir.join("real/deep/new/x"));
    std::fs::remove_dir_all(dir).expect("it goes");
}
