//! What changes in a store while it is mounted, and what the kernel and people are told of that. Mounts nothing.

use super::*;

#[test]
fn new_ones_appear_and_dropped_ones_leave_but_what_is_known_stays() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    let metadata = fixture.metadata(None);
    let find = |path: &str| {
        metadata.look(|_| Ok(()));
        find(&metadata, path).map(|found| found.attr)
    };
    assert_eq!(find("a"), None);
    assert_eq!(metadata.statfs().map(|space| space.files), Ok(0));
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let first = find("a/step-5").expect("it");
    let inside = find("a/step-5/a.ckpt").expect("its file");
    let latest = find("a/latest").expect("a link").ino.0;
    // Another of the same step is another directory.
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let second = find("a/step-5").expect("another");
    assert_ne!(second.ino, first.ino);
    fixture.put("a", Some(6), &[file], None, &[]);
    let moved = find("a/latest").expect("a link").ino.0;
    assert_eq!((metadata.read_link(latest), metadata.read_link(moved)), (Ok(b"step-5".into()), Ok(b"step-6".into())));
    fixture.store.remove(&["a@5".into(), "a@6".into()]).expect("removed");
    assert_eq!(find("a"), None);
    assert_eq!(metadata.attributes(inside.ino.0), Ok((inside, FIXED)));
    assert_eq!(metadata.attributes(second.ino.0), Ok((second, FIXED)));
    assert_eq!(metadata.xattr(inside.ino.0, OsStr::new("user.ckpt.run"), stored), Ok(b"a".into()));
    // Nobody looked into it, and then its manifest goes away.
    fs::remove_dir_all(fixture.store.root().join("checkpoints")).expect("removed");
    assert_eq!(metadata.lookup(second.ino.0, OsStr::new("a.ckpt")).err(), Some(Errno::ESTALE));
    assert!(fixture.lines.0.lock().expect("no poison").is_empty());
}

#[test]
fn what_one_finds_who_answers_is_told_by_the_next_look() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    let metadata = fixture.metadata(None);
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    metadata.look(|_| Ok(()));
    let first = find(&metadata, "a/step-5").expect("it").attr.ino.0;
    let run = find(&metadata, "a").expect("its run").attr.ino.0;
    let second = fixture.put("a", Some(5), &[file], None, &[]);
    // Its manifest went with it, and nobody has looked at the store since.
    let manifests = fs::read_dir(fixture.store.root().join("checkpoints")).expect("a directory");
    let of_others =
        manifests.map(|entry| entry.expect("an entry")).filter(|entry| *entry.file_name() != *second.to_string());
    of_others.for_each(|entry| fs::remove_file(entry.path()).expect("removed"));
    assert_eq!(metadata.lookup(first, OsStr::new("a.ckpt")).err(), Some(Errno::ESTALE));
    let now = find(&metadata, "a/step-5").expect("what is in its place").attr.ino.0;
    assert_ne!(now, first);
    assert!(fixture.lines.0.lock().expect("no poison").is_empty());
    let told = news(&metadata);
    assert!(told.contains(&format!("{run} step-5")), "{told:?}");
    assert!(news(&metadata).is_empty());
}

#[test]
fn a_damaged_manifest_is_an_error_that_is_told_once() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    let id = fixture.put("a", Some(5), &[file], None, &[]);
    let metadata = fixture.metadata(None);
    fs::write(fixture.store.root().join(format!("checkpoints/{id}")), b"other bytes").expect("damaged");
    let found = find(&metadata, "a/step-5").expect("its directory is known without it");
    for _ in 0..3 {
        assert_eq!(metadata.lookup(found.attr.ino.0, OsStr::new("a.ckpt")).err(), Some(Errno::EIO));
        assert_eq!(metadata.directory(found.attr.ino.0, 0).err(), Some(Errno::EIO));
    }
    let lines = fixture.lines.0.lock().expect("no poison").clone();
    assert!(lines.len() == 1 && lines[0].starts_with("a@5 can't be shown: "), "{lines:?}");
    assert_eq!(metadata.xattr(found.attr.ino.0, OsStr::new("user.ckpt.step"), stored), Ok(b"5".into()));
}

#[test]
fn a_store_that_can_not_be_read_for_a_moment_is_shown_as_it_was() {
    let fixture = Fixture::new();
    fixture.put("a", Some(5), &[fixture.file("a.ckpt", b"bytes")], None, &[]);
    let metadata = fixture.metadata(None);
    let (head, aside) = (fixture.store.root().join("HEAD"), fixture.store.root().join("HEAD.aside"));
    fs::rename(&head, &aside).expect("renamed");
    let is_well = || metadata.look(|change| panic!("{change:?}"));
    assert!(!is_well() && !is_well());
    assert!(find(&metadata, "a/step-5/a.ckpt").is_some());
    fs::write(&head, b"no head").expect("written");
    assert!(!is_well() && !is_well());
    assert!(find(&metadata, "a/step-5").is_some());
    fs::rename(&aside, &head).expect("renamed");
    assert!(is_well());
    fixture.put("a", Some(6), &[fixture.file("a.ckpt", b"bytes")], None, &[]);
    assert!(metadata.look(|_| Ok(())));
    assert!(find(&metadata, "a/step-6").is_some());
    // A catalog that can't be read is as bad, and each cause is told once.
    let catalog = fixture.store.root().join("catalog");
    fs::rename(fixture.store.root(), fixture.directory.path().join("away")).expect("renamed");
    assert!(!is_well() && !is_well());
    fs::rename(fixture.directory.path().join("away"), fixture.store.root()).expect("renamed");
    assert!(is_well() && catalog.exists());
    let lines = fixture.lines.0.lock().expect("no poison").clone();
    let stays = "what is shown stays as it was until the store can be read: ";
    let causes: Vec<&str> = lines.iter().map(|line| line.strip_prefix(stays).unwrap_or(line)).collect();
    let again = "the store can be read again";
    assert_eq!((causes.len(), causes[0], causes[2], causes[4]), (5, "HEAD is damaged: it is missing", again, again));
    assert!(causes[1].starts_with("HEAD is damaged: ") && causes[3].starts_with("no store in /"), "{causes:?}");
}

/// What the kernel is told after a look.
fn news(metadata: &Metadata) -> BTreeSet<String> {
    let mut news = BTreeSet::new();
    metadata.look(|change| {
        news.insert(match change {
            Change::Name { parent, name } => {
                assert!(parent == ROOT || metadata.attributes(parent).is_ok());
                format!("{parent} {name}")
            }
            Change::Directory(inode) => inode.to_string(),
        });
        Ok(())
    });
    news
}

#[test]
fn what_the_kernel_did_not_take_it_is_told_again() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let metadata = fixture.metadata(None);
    find(&metadata, "a/latest").expect("it is known");
    fixture.put("a", Some(6), std::slice::from_ref(&file), None, &[]);
    let no_memory = || Err(std::io::Error::from_raw_os_error(12));
    let mut tried = 0;
    let is_well = metadata.look(|_| {
        tried += 1;
        no_memory()
    });
    assert!(tried > 2 && !is_well, "the rest is tried as well");
    fixture.put("a", Some(7), std::slice::from_ref(&file), None, &[]);
    // A part is taken, and a panic is as good as an error.
    assert!(!metadata.look(|change| if matches!(change, Change::Name { .. }) { Ok(()) } else { no_memory() }));
    let panicked = catch_unwind(AssertUnwindSafe(|| metadata.look(|_| panic!("by this test"))));
    assert!(panicked.is_err());
    let told = news(&metadata);
    let known = find(&metadata, "a").expect("it").attr.ino.0;
    for name in ["step-6", "step-7", "latest"] {
        assert!(told.contains(&format!("{known} {name}")), "{told:?}");
    }
    assert!(news(&metadata).is_empty(), "once it was taken");
    let lines = fixture.lines.0.lock().expect("no poison").clone();
    assert!(lines.len() == 1 && lines[0].contains("can't be told") && lines[0].contains("memory"), "{lines:?}");
    // What it never takes is given up.
    fixture.put("a", Some(8), &[file], None, &[]);
    (0..TELLS_MAX).for_each(|_| _ = metadata.look(|_| no_memory()));
    assert!(metadata.look(|_| panic!("too often")));
}

#[test]
fn the_kernel_is_told_what_changed_and_nothing_else() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a/b", Some(5), std::slice::from_ref(&file), None, &["good"]);
    let metadata = fixture.metadata(None);
    let ino = |path: &str| find(&metadata, path).expect("it is there").attr.ino.0;
    let (a, b, ids) = (ino("a"), ino("a/b"), ino("by-id"));
    let all = |parts: &[&[String]]| parts.concat().into_iter().collect::<BTreeSet<_>>();
    let times = [ROOT, a, b, ids].map(|inode| inode.to_string());
    assert!(news(&metadata).is_empty());
    let id = fixture.put("a/b", Some(6), std::slice::from_ref(&file), None, &[]);
    assert_eq!(find(&metadata, "a/b/step-6").map(|_| ()), None, "nobody has looked");
    let names = [format!("{b} step-6"), format!("{b} latest"), format!("{ids} {id}")];
    assert_eq!(news(&metadata), all(&[&times, &names]));
    assert!(news(&metadata).is_empty());
    let (second, latest) = (ino("a/b/step-6"), ino("a/b/latest"));
    // A tag moves: the time of the directory is what it was.
    fixture.store.tag("a/b@6", "good").expect("a tag");
    assert_eq!(news(&metadata), [format!("{b} good"), b.to_string()].into(), "what the kernel has listed goes as well");
    fixture.store.pin("a/b@6", true).expect("a pin");
    assert!(news(&metadata).is_empty(), "what nobody sees is no news");
    fixture.store.pin("a/b@6", false).expect("no pin");
    assert!(news(&metadata).is_empty());
    fixture.store.remove(&["a/b@6".into()]).expect("removed");
    let names = [format!("{b} step-6"), format!("{b} latest"), format!("{b} good"), format!("{ids} {id}")];
    assert_eq!(news(&metadata), all(&[&times, &names]));
    fixture.store.remove(&["a/b@5".into()]).expect("removed");
    let gone = news(&metadata);
    assert!(gone.contains(&format!("{ROOT} a")) && gone.contains(&format!("{a} b")), "{gone:?}");
    // What is not known to the kernel is nothing to tell.
    [a, b, ids, second, latest].into_iter().for_each(|inode| metadata.forget(inode, 1000));
    fixture.put("a/b", Some(7), &[file], None, &[]);
    assert_eq!(news(&metadata), [format!("{ROOT} a"), ROOT.to_string()].into());
}

#[test]
fn news_come_after_the_last_answer_made_of_what_was_known_before() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let metadata = fixture.metadata(None);
    let run = find(&metadata, "a").expect("a run").attr.ino.0;
    let answering = metadata.lookup(run, OsStr::new("step-6")).expect("nothing");
    fixture.put("a", Some(6), &[file], None, &[]);
    let name = format!("{run} step-6");
    // It waits for a while, then it tells all the same, and once more when the answer is out.
    assert!(news(&metadata).contains(&name));
    assert!(news(&metadata).is_empty());
    // What comes meanwhile may be told before that answer is out, which has it wrong as well.
    fixture.store.tag("a@5", "good").expect("a tag");
    let tag = format!("{run} good");
    assert!(news(&metadata).contains(&tag));
    drop(answering);
    let late = news(&metadata);
    assert!(late.contains(&name) && late.contains(&tag), "{late:?}");
    assert!(news(&metadata).is_empty());
}
