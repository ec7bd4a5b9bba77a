//! What a call does for an operator, as scripts of inputs and outputs.

use super::machine_tests::{check, check_talking, policy};

const VERBATIM: &str = r#"create "Say the following to the caller now, word for word and in its own language, and nothing else: Hear this.""#;

#[test]
fn what_an_operator_says_waits_for_what_is_being_said() {
    check_talking(
        policy(),
        &format!(
            r#"
        100  say verbatim   => {VERBATIM}
        200  created r1     =>
        300  done r1        =>
        400  say user       => text Hear this.; create
        500  created r2     =>
        600  say            =>
        700  say system     => system "Hear this."
        800  done r2        => {VERBATIM}
        "#
        ),
    );
}

#[test]
fn a_caller_who_speaks_is_answered_instead() {
    check_talking(
        policy(),
        "
        100  created r1  =>
        200  say         =>
        300  speech      =>
        400  done r1     =>
        500  stopped 500 =>
        600  created r2  =>
        700  done r2     =>
        ",
    );
    check_talking(
        policy(),
        "
        100  speech      =>
        200  say         =>
        300  stopped 300 =>
        400  created r1  =>
        500  done r1     =>
        ",
    );
}

#[test]
fn nothing_is_said_before_and_after_the_conversation() {
    check(
        policy(),
        "
        0   say user  =>
        10  start     => configure
        20  say       =>
        30  updated   =>
        ",
    );
}

#[test]
fn a_session_is_left_in_a_pause_or_after_a_minute() {
    check_talking(
        policy(),
        "
        0    created r1        =>
        100  leave             =>
        100  timer             => open
        200  opened configured =>
        300  done r1           => rotated; use; replay 0..0
        400  audio 20          =>
        ",
    );
    check_talking(
        policy(),
        "
        10    audio 1000        =>
        20    speech 200        =>
        100   leave             =>
        100   timer             => open
        200   opened configured =>
        29000 audio 20          =>
        58000 audio 20          =>
        60100 timer             => rotated; use; replay 0..23040
        ",
    );
    // Where there is no other, it stays.
    check_talking(
        policy(),
        "
        100   leave =>
        100   timer => open
        200   none  =>
        5200  timer => open
        5300  none  =>
        ",
    );
}
