//! Files that are shown beside those that were stored. Mounts nothing.

use super::*;

/// A safetensors file of tensors of two bytes each.
fn safetensors(names: &[&str]) -> Vec<u8> {
    let tensors: serde_json::Map<String, serde_json::Value> = (0..)
        .zip(names)
        .map(|(at, name)| {
            let tensor = serde_json::json!({"dtype": "F16", "shape": [1], "data_offsets": [2 * at, 2 * at + 2]});
            ((*name).to_owned(), tensor)
        })
        .collect();
    let header = serde_json::to_string(&tensors).expect("a header");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![1; 2 * names.len()]);
    bytes
}

#[test]
fn tensors_are_shown_beside_the_files() {
    let fixture = Fixture::new();
    let long = "x".repeat(300);
    let file = fixture.file("model.safetensors", &safetensors(&["a.weight", "a/b", "..", "100%", &long]));
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    fixture.put("a", Some(6), &[fixture.file("notes.txt", b"no tensor")], None, &[]);
    let metadata = fixture.metadata(None);
    // Who copies or counts a checkpoint means its own files: the views are there for who asks for them.
    assert!(walk(&metadata).keys().all(|path| !path.contains("/.")));
    let attr = |path: &str| find(&metadata, path).unwrap_or_else(|| panic!("{path} is not there")).attr;
    for name in ["a.weight", "a%2Fb", "%2E%2E", "100%25"] {
        let attr = attr(&format!("a/step-5/.tensors/{name}.npy"));
        assert_eq!((attr.size, attr.perm, attr.kind), (130, 0o444, FileType::RegularFile), "{name}");
    }
    let listed = list(&metadata, attr("a/step-5/.tensors").ino.0, 3);
    let listed: Vec<String> = listed.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(listed.len(), 2 + 5, "{listed:?}");
    let cut: Vec<&String> = listed.iter().filter(|name| name.contains("%~")).collect();
    assert!(cut.len() == 1 && cut[0].ends_with(".npy"), "{cut:?}");
    assert!(find(&metadata, "a/step-6/.tensors").is_none());
    let cut = format!("a/step-5/.tensors/{}", cut[0]);
    let ino = |path: &str| attr(path).ino.0;
    let whole = ino(&cut);
    assert_eq!(metadata.xattr(whole, OsStr::new("user.ckpt.name"), stored), Ok(long.into_bytes()));
    assert_eq!(metadata.xattr(whole, OsStr::new("user.ckpt.step"), stored), Ok(b"5".into()));
    assert_eq!(
        metadata.xattr(ino("a/step-5/.tensors/a%2Fb.npy"), OsStr::new("user.ckpt.name"), stored),
        Err(Errno::ENODATA)
    );
    // What is told of them is what is read of them.
    for (path, name) in
        [("a/step-5/.safetensors", ".safetensors"), ("a/step-5/.tensors/a%2Fb.npy", ".tensors/a%2Fb.npy")]
    {
        let source = metadata.source(ino(path)).expect("a source");
        assert_eq!((source.body.len(), &*source.file), (attr(path).size, name));
    }
    assert_eq!(metadata.source(ino("a/step-5/.tensors")).err(), Some(Errno::EISDIR));
}

#[test]
fn a_file_hides_the_view_of_its_name() {
    let fixture = Fixture::new();
    let top = fixture.directory.path().join("top");
    fs::create_dir_all(top.join(".tensors")).expect("a directory");
    fs::write(top.join(".safetensors"), b"mine").expect("a file");
    fs::write(top.join(".tensors/x"), b"mine too").expect("a file");
    fs::write(top.join("model.safetensors"), safetensors(&["a", "b"])).expect("a file");
    fixture.put("a", Some(5), &[top], None, &[]);
    let metadata = fixture.metadata(None);
    let all = walk(&metadata);
    assert_eq!(all.get("/a/step-5/.safetensors").map(|attr| attr.size), Some(4));
    let hidden: Vec<&String> = all.keys().filter(|path| path.contains("/.")).collect();
    assert_eq!(hidden, ["/a/step-5/.safetensors", "/a/step-5/.tensors", "/a/step-5/.tensors/x"]);
}

#[test]
fn a_view_is_for_those_who_may_read_the_files_that_it_shows() {
    let fixture = Fixture::new();
    let top = fixture.directory.path().join("top");
    fs::create_dir_all(top.join("group")).expect("a directory");
    let mode =
        |path: &str, mode| fs::set_permissions(top.join(path), fs::Permissions::from_mode(mode)).expect("a mode");
    for (path, tensor, bits) in [("open.safetensors", "a", 0o644), ("own.safetensors", "b", 0o600)] {
        fs::write(top.join(path), safetensors(&[tensor])).expect("a file");
        mode(path, bits);
    }
    fs::write(top.join("group/c.safetensors"), safetensors(&["c"])).expect("a file");
    mode("group/c.safetensors", 0o644);
    mode("group", 0o750);
    fs::write(top.join("notes.txt"), b"no tensor").expect("a file");
    mode("notes.txt", 0o600);
    let metadata = |step| {
        fixture.put("a", Some(step), std::slice::from_ref(&top), None, &[]);
        fixture.metadata(None)
    };
    let perm = |metadata: &Metadata, path: &str| find(metadata, path).unwrap_or_else(|| panic!("{path}")).attr.perm;
    let private = metadata(5);
    for (name, expected) in [("a", 0o444), ("b", 0o400), ("c", 0o440)] {
        assert_eq!(perm(&private, &format!("a/step-5/.tensors/{name}.npy")), expected, "{name}");
    }
    assert_eq!(perm(&private, "a/step-5/.safetensors"), 0o400);
    mode("own.safetensors", 0o444);
    assert_eq!(perm(&metadata(6), "a/step-6/.safetensors"), 0o440);
}
