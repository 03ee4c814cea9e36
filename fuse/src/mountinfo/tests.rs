//! Lines of mountinfo as kernels write them, and as nobody should.

use proptest::prelude::*;

use super::*;

const SAMPLE: &[u8] = b"24 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
    30 24 0:25 / /dev rw,nosuid shared:2 - devtmpfs devtmpfs rw,size=4k\n\
    40 24 0:44 / /mnt/my\\040models\\134x ro,nosuid,nodev,noatime - fuse.ckpt /data/a\\040store ro,user_id=1000,group_id=1000,default_permissions\n\
    41 24 0:45 / /srv rw master:1 propagate_from:2 - tmpfs tmpfs rw\n";

fn mount(id: u64, parent: u64, point: &str, kind: &str) -> Mount {
    let device = Device { major: 0, minor: u32::try_from(id).expect("small") };
    Mount { id, parent, device, point: point.into(), kind: kind.into(), source: "x".into(), user: None }
}

fn reaches(mounts: &[Mount], path: &str) -> u64 {
    reached(mounts, Path::new(path)).map_or(0, |mount| mount.id)
}

#[test]
fn lines_are_read_with_their_escapes_and_optional_words() {
    let mounts = parse(SAMPLE);
    assert_eq!(mounts.len(), 4);
    let ours = &mounts[2];
    assert_eq!((ours.id, ours.parent, ours.device.to_string()), (40, 24, "0:44".to_owned()));
    assert_eq!(ours.point, Path::new("/mnt/my models\\x"));
    assert_eq!((ours.source.to_str(), ours.user), (Some("/data/a store"), Some(1000)));
    assert!(ours.is_ours() && !mounts[3].is_ours());
    assert_eq!((&*mounts[1].kind, &*mounts[3].kind), ("devtmpfs", "tmpfs"));
}

#[test]
fn lines_that_are_cut_short_are_left_out() {
    for cut in 0..SAMPLE.len() {
        for mount in parse(&SAMPLE[..cut]) {
            assert!([24, 30, 40, 41].contains(&mount.id), "{mount:?}");
        }
    }
    assert!(parse(b"1 2 3 / / rw - ext4 x rw\n\n 1 0:1\n1 2 0:1 / /a rw ext4 x rw\n").is_empty());
}

#[test]
fn octal_beyond_a_byte_and_halves_of_escapes_stay_as_they_are() {
    assert_eq!(unescape(b"a\\777b\\04"), b"a\\777b\\04");
    assert_eq!(unescape(b"\\040\\011\\012\\134\\377"), b" \t\n\\\xff");
}

#[test]
fn a_path_leads_into_the_topmost_of_several() {
    let mounts = [
        mount(1, 0, "/", "ext4"),
        mount(2, 1, "/mnt", "fuse.ckpt"),
        mount(3, 2, "/mnt", "fuse.ckpt"),
        mount(4, 1, "/mnt2", "tmpfs"),
    ];
    assert_eq!(reaches(&mounts, "/mnt"), 3);
    assert_eq!(reaches(&mounts, "/mnt/run"), 3);
    assert_eq!(reaches(&mounts, "/mnt2/x"), 4);
    assert_eq!(reaches(&mounts, "/mnt3"), 1);
}

#[test]
fn a_mount_below_a_later_one_is_hidden() {
    // /a/b was mounted first, then something over /a.
    let mounts = [mount(1, 0, "/", "ext4"), mount(2, 1, "/a/b", "fuse.ckpt"), mount(3, 1, "/a", "tmpfs")];
    assert_eq!(reaches(&mounts, "/a/b"), 3);
    // Mounted within the later one it is seen.
    let mounts = [mount(1, 0, "/", "ext4"), mount(3, 1, "/a", "tmpfs"), mount(4, 3, "/a/b", "fuse.ckpt")];
    assert_eq!(reaches(&mounts, "/a/b"), 4);
}

#[test]
fn a_list_in_a_circle_ends() {
    let mounts = [mount(1, 2, "/", "a"), mount(2, 1, "/", "b"), mount(3, 3, "/", "c")];
    assert_eq!(reaches(&mounts, "/x"), 3);
    assert_eq!(reaches(&mounts[..2], "/x"), 0);
}

proptest! {
    #[test]
    fn any_bytes_are_borne(bytes in prop::collection::vec(prop_oneof![Just(b' '), Just(b'\n'), Just(b'\\'), Just(b'-'), b'0'..=b'9', any::<u8>()], 0..200)) {
        let mounts = parse(&bytes);
        let _ = reached(&mounts, Path::new("/a/b"));
    }

    #[test]
    fn what_the_kernel_escapes_comes_back(name in prop::collection::vec(1_u8.., 1..40)) {
        let escaped: Vec<u8> = name.iter().flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        }).collect();
        prop_assert_eq!(unescape(&escaped), name);
    }
}
