//! How a person names a checkpoint.

use super::Desk;

#[test]
fn refs_find_steps_tags_and_the_best() {
    let desk = Desk::six();
    desk.ok(&["tag", "a/b@100", "first"]);
    let step = |reference: &str| desk.json(&["show", reference])["step"].as_u64().expect("a step");
    assert_eq!((step("a/b"), step("a/b@latest"), step("a/b@300"), step("a/b@first")), (600, 600, 300, 100));
    // A NaN is never the best, whichever end is good.
    assert_eq!((step("a/b@best"), step("a/b@best:val_loss:min"), step("a/b@best:val_loss:max")), (500, 500, 100));
    desk.ok(&["tag", "a/b@400", "first"]);
    assert_eq!(step("a/b@first"), 400, "a tag moves");
    assert_eq!(desk.json(&["show", "a/b@100"])["tags"], serde_json::json!([]));
    assert!(desk.ok(&["ls", "a/b"]).text().contains("val_loss=NaN"));
}
