//! Processes that stand still, as on a laptop that was closed or a node that swaps, while others go on. `make torture` stops
//! them at every call.

use ckpt_tests::stops::{stop_gcs, stop_gcs_beside_gets, stop_gets, stop_puts};

#[test]
fn a_put_that_slept_through_two_gcs_is_bit_exact_or_fails() {
    let figures = stop_puts(false, |nr| nr % 3 == 1);
    assert!(figures.done > 10 && figures.waited < figures.stops / 2, "{figures:?}");
    let figures = stop_puts(true, |nr| nr % 40 == 5);
    assert!(figures.done > 1, "{figures:?}");
}

#[test]
fn a_get_whose_checkpoint_is_collected_meanwhile_gives_all_of_it_or_nothing() {
    let figures = stop_gets(false, |nr| nr % 3 == 2);
    assert!(figures.done > 5 && figures.failed > 1, "{figures:?}");
    let figures = stop_gets(true, |nr| nr % 20 == 5);
    assert!(figures.done > 0, "{figures:?}");
}

#[test]
fn of_two_gcs_the_second_says_who_runs() {
    let figures = stop_gcs();
    assert!(figures.stops > 5 && figures.waited > 1 && figures.waited < figures.stops, "{figures:?}");
}

#[test]
fn a_get_that_pins_while_gc_is_at_work_gets_all_of_it() {
    let figures = stop_gcs_beside_gets(|nr| nr % 5 == 3);
    assert!(figures.done > 10, "{figures:?}");
}
