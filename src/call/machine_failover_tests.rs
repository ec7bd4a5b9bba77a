//! The call core when its session fails or comes to its cap. How to read a scene: see `machine_tests.rs`.

use super::machine_tests::{check, check_showing, check_talking, greeting, manual, ms, policy};
use super::policy::{CallPolicy, CallTimeouts, CarryPolicy};

// What ends a session.

#[test]
fn each_failure_is_followed_by_another_session() {
    for loss in [
        "closed",
        "gone",
        "protocol",
        "stalled",
        "rejected",
        "unauthorized",
        "expired",
        "server_error",
        "rate_limited",
    ] {
        check_talking(
            policy(),
            &format!(
                "100 lost {loss} => lose {loss}; open
                 150 opened => replaced {loss}; use; configure; replay 0..0
                 200 updated =>
                 25000 wait"
            ),
        );
    }
    for (code, loss) in [
        ("session_expired", "expired"),
        ("invalid_api_key", "unauthorized"),
        ("rate_limit_exceeded", "rate_limited"),
    ] {
        check_talking(
            policy(),
            &format!("100 error {code} => lose {loss}; open\n101 error {code} =>"),
        );
    }
}

#[test]
fn a_session_that_stalls_is_lost_and_its_answer_asked_of_the_next() {
    check_talking(
        policy(),
        "
        1000 speech 500  =>
        2000 stopped     =>
        2001 committed   =>
        10001 timer      => lose stalled; open
        10100 opened     => replaced stalled; use; configure; text [The caller spoke here; the words are not known.]; replay 0..0
        10150 updated    => create
        10200 created r1 =>
        10700 delta r1 a 100 => queue; gap 149
        ",
    );
}

#[test]
fn what_failed_twice_is_asked_of_another() {
    check_talking(
        policy(),
        "
        100 created r1     =>
        200 done r1 failed => retried; create
        300 created r2     =>
        400 done r2 failed => lose server_error; open
        410 opened         => replaced server_error; use; configure; replay 0..0
        500 updated        => create
        510 created r3     =>
        600 done r3        =>
        ",
    );
    check_talking(
        manual(),
        "
        100 speech                       =>
        200 stopped                      => create
        201 committed                    =>
        300 created r1                   =>
        310 done r1 rate_limit_exceeded  => lose rate_limited; open
        410 opened configured            => replaced rate_limited; use; text [The caller spoke here; the words are not known.]; replay 0..0; create
        ",
    );
}

#[test]
fn a_session_that_refuses_its_configuration_is_lost_and_not_for_its_history() {
    check(
        policy(),
        "
        0   start              => configure
        50  error invalid_value => lose rejected; open
        60  opened             => replaced rejected; use; configure; replay 0..0
        70  updated            =>
        ",
    );
}

// What another session is told.

#[test]
fn a_session_is_told_what_was_said_and_heard() {
    check_talking(
        policy(),
        "
        100   created r1               =>
        110   saying r1 a Good morning. How can I help? =>
        120   delta r1 a 2000          => queue
        130   spoken a                 =>
        140   done r1                  =>
        1120  speech                   => clear; truncate a 1000
        2000  stopped                  =>
        2001  committed                =>
        2050  created r2               =>
        2060  saying r2 b One moment.  =>
        2100  delta r2 b 600           => queue
        2200  spoken b                 =>
        2210  call c1 look             => run c1 look
        2220  call c2 book             => run c2 book
        2300  done r2                  =>
        2400  heard                    => words caller
        2500  tool c1                  => output c1
        2600  key #                    => clear; truncate b 500; text [The caller pressed these keys: #]; create
        2700  lost gone                => lose gone; open
        2750  opened                   => replaced gone; use; configure; said#1 \"Good morning.\"; text yes; said#2 \"One\"; called c1; output c1; called c2; text [The caller pressed these keys: #]; replay 0..0
        2800  updated                  => create
        2850  created r3               =>
        2900  tool c2                  => output c2
        3000  done r3                  => create
        ",
    );
}

#[test]
fn a_tool_that_ends_without_a_session_is_told_to_the_next_once() {
    check_talking(
        policy(),
        "
        100 created r1   =>
        200 call c1 look => run c1 look
        210 call c1 look =>
        300 lost closed  => lose closed; open
        400 tool c1      =>
        500 opened       => replaced closed; use; configure; called c1; output c1; replay 0..0
        600 updated      => create
        700 created r2   =>
        800 done r2      =>
        20000 wait
        ",
    );
    // It is still running when the next one takes over.
    check_talking(
        policy(),
        "
        100 created r1   =>
        200 call c1 look => run c1 look
        210 done r1      =>
        300 lost closed  => lose closed; open
        500 opened       => replaced closed; use; configure; called c1; replay 0..0
        600 updated      =>
        700 tool c1      => output c1; create
        ",
    );
}

// The caller's audio.

#[test]
fn audio_since_the_last_item_is_sent_again() {
    check_showing(
        &["append", "keep", "forget", "silence"],
        policy(),
        "
        0    start            => configure
        0    updated          =>
        10   audio 1000       => append
        20   speech 700       =>
        30   audio 1000       => append
        40   audio 500        => append
        50   stopped 2100     =>
        60   committed        => forget 0..700
        70   created r1       =>
        80   audio 200        => append
        90   lost closed      => lose closed; open
        100  audio 300        => keep
        110  opened           => replaced closed; use; configure; item 700..2100; replay 2100..3000
        120  audio 100        => append
        130  updated          => create
        140  heard            => forget 700..2100; words caller
        ",
    );
}

#[test]
fn a_turn_that_is_not_an_item_yet_is_sent_again_and_answered_by_that() {
    check_talking(
        policy(),
        "
        10   audio 1000      =>
        20   speech 300      =>
        30   audio 1000      =>
        40   lost gone       => lose gone; open
        50   opened          => replaced gone; use; configure; replay 0..2000
        60   updated         =>
        70   speech 300      =>
        80   lost gone       => lose gone; open
        331  opened configured => replaced gone; use; replay 0..2000
        340  speech 300      =>
        350  stopped 1900    =>
        360  committed       =>
        370  created r1      =>
        ",
    );
}

#[test]
fn audio_is_kept_while_nobody_has_heard_it() {
    // Five seconds of silence are forgotten while the session lives, none while it is not heard of.
    check_showing(
        &["forget"],
        policy(),
        "
        0   start      => configure
        0   updated    =>
        10  audio 5000 =>
        20  alive      =>
        30  audio 20   => forget 0..3800
        40  audio 3000 =>
        50  created r1 =>
        60  audio 3000 => forget 3800..6820
        70  alive      =>
        80  audio 9000 =>
        90  other      =>
        91  audio 20   => forget 6820..18820
        ",
    );
}

#[test]
fn what_may_be_kept_has_a_bound() {
    let carry = CarryPolicy {
        audio: ms(6_000),
        answered: ms(2_000),
    };
    check_showing(
        &["forget"],
        CallPolicy { carry, ..policy() },
        "
        0   start        => configure
        0   updated      =>
        10  audio 1000   =>
        20  speech 0     =>
        30  audio 9000   => forget 0..4000; lost 4000
        40  lost gone    => lose gone; open
        50  opened       => replaced gone; use; configure; replay 4000..10000
        60  updated      =>
        70  speech 0     =>
        80  stopped 5000 =>
        90  committed    => forget 4000..4000
        91  created r1   =>
        92  delta r1 a 100 => queue
        93  spoken a     =>
        94  done r1      => forget 4000..9000
        100 lost gone    => lose gone; open
        360 opened       => replaced gone; use; configure; text [The caller spoke here; the words are not known.]; replay 9000..10000
        ",
    );
}

// The answer that broke off.

#[test]
fn an_answer_goes_on_where_it_broke_off() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        110  saying r1 a We are open from nine to five on weekdays. =>
        120  delta r1 a 1000   => queue
        200  lost closed       => lose closed; open
        300  opened            => replaced closed; use; configure; said#1 \"We are open\"; replay 0..0
        350  updated           => continue \"We are open\"
        400  created r2        =>
        450  saying r2 b from nine =>
        500  delta r2 b 2000   => queue; gap 0
        700  lost closed       => lose closed; open
        1000 opened            => replaced closed; use; configure; said#2 \"We are open\"; said#3 \"from nine\"; replay 0..0
        1050 updated           => continue \"from nine\"
        ",
    );
}

#[test]
fn an_answer_of_which_nothing_came_is_asked_for_anew() {
    check(
        greeting(),
        r#"
        0   start       => configure
        10  updated     => create "Say hello."
        20  lost closed => lose closed; open
        30  opened      => replaced closed; use; configure; replay 0..0
        40  updated     => create "Say hello."
        50  created r1  =>
        60  lost closed => lose closed; open
        320 opened configured => replaced closed; use; replay 0..0; create "Say hello."
        "#,
    );
}

#[test]
fn an_answer_that_was_complete_is_not_gone_on_with() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        120  delta r1 a 1000   => queue
        130  spoken a          =>
        200  lost closed       => lose closed; open
        300  opened            => replaced closed; use; configure; replay 0..0
        350  updated           =>
        25000 wait
        ",
    );
}

#[test]
fn whoever_interrupts_an_answer_of_a_dead_session_is_believed() {
    // Another session was told more than the caller then heard.
    check_talking(
        policy(),
        "
        100  created r1        =>
        110  saying r1 a One two three four five six. =>
        120  delta r1 a 2800   => queue
        130  spoken a          =>
        140  done r1           =>
        200  lost closed       => lose closed; open
        300  opened            => replaced closed; use; configure; said#1 \"One two three four five six.\"; replay 0..0
        350  updated           =>
        1120 speech            => clear; delete item_trunkline_1; said#2 \"One two\"
        ",
    );
    // There is none to be told, and the next one is told the truth.
    check_talking(
        policy(),
        "
        100  created r1        =>
        110  saying r1 a One two three four five six. =>
        120  delta r1 a 1400   => queue
        200  lost closed       => lose closed; open
        1120 key #             => clear
        1300 opened            => replaced closed; use; configure; said#1 \"One two three\"; text [The caller pressed these keys: #]; replay 0..0
        1350 updated           => create
        ",
    );
    // Nothing of it was heard.
    check_talking(
        policy(),
        "
        100  created r1        =>
        110  saying r1 a One two. =>
        120  delta r1 a 900    => queue
        121  lost closed       => lose closed; open
        122  opened            => replaced closed; use; configure; said#1 \"One two.\"; replay 0..0
        123  speech            => clear; delete item_trunkline_1
        124  updated           =>
        ",
    );
}

#[test]
fn items_of_different_sessions_are_different_even_with_one_name() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        110  saying r1 a One two three. =>
        120  delta r1 a 1000   => queue
        130  spoken a          =>
        140  done r1           =>
        150  key #             => clear; truncate a 30; text [The caller pressed these keys: #]; create
        160  lost closed       => lose closed; open
        170  opened configured => replaced closed; use; text [The caller pressed these keys: #]; replay 0..0; create
        180  created r1        =>
        200  delta r1 a 1000   => queue; gap 10
        700  speech            => clear; truncate a 500
        ",
    );
}

#[test]
fn an_answer_asked_for_is_the_turns_own_if_the_caller_speaks_meanwhile() {
    check_talking(
        policy(),
        "
        100 speech             =>
        200 stopped            =>
        201 committed          =>
        300 lost gone          => lose gone; open
        310 opened             => replaced gone; use; configure; text [The caller spoke here; the words are not known.]; replay 0..0
        320 updated            => create
        330 speech             =>
        331 stopped            =>
        332 committed          =>
        340 created r1         =>
        350 error conversation_already_has_active_response => race active_response
        360 done r1            =>
        25000 wait
        ",
    );
}

// Where there is none.

#[test]
fn who_cannot_be_helped_hears_an_apology() {
    check_talking(
        policy(),
        "
        100   created r1      =>
        200   delta r1 a 3000 => queue
        1000  lost closed     => lose closed; open
        1100  none            => open
        1150  none            =>
        1400  timer           => open
        1500  none            =>
        2000  timer           => open
        2100  none            =>
        3100  timer           => open
        11000 timer           => unavailable closed; apologise
        11100 speech          =>
        11200 opened          =>
        12000 timer           => end model_unavailable
        ",
    );
    // What is still to be played comes first.
    let timeouts = CallTimeouts {
        replacement: ms(1_000),
        ..CallTimeouts::default()
    };
    check_talking(
        CallPolicy {
            timeouts,
            ..policy()
        },
        "
        100   created r1       =>
        200   delta r1 a 20000 => queue
        1000  lost closed      => lose closed; open
        2000  timer            => unavailable closed; apologise
        21200 timer            => end model_unavailable
        ",
    );
}

#[test]
fn sessions_that_fail_one_after_the_other_are_not_opened_for_ever() {
    check_talking(
        policy(),
        "
        0    lost gone         => lose gone; open
        1    opened configured => replaced gone; use; replay 0..0
        2    lost gone         => lose gone; open
        3    opened configured => replaced gone; use; replay 0..0
        4    lost gone         => lose gone
        254  timer             => open
        255  opened configured => replaced gone; use; replay 0..0
        256  lost gone         => lose gone
        756  timer             => open
        757  opened configured => replaced gone; use; replay 0..0
        758  lost gone         => lose gone
        1758 timer             => open
        1759 opened configured => replaced gone; use; replay 0..0
        1760 lost gone         => lose gone
        3760 timer             => open
        3761 opened configured => replaced gone; use; replay 0..0
        3762 lost gone         => lose gone
        5762 timer             => open
        5763 opened configured => replaced gone; use; replay 0..0
        5764 lost gone         => lose gone; unavailable gone; apologise
        6764 timer             => end model_unavailable
        ",
    );
    // A good response, or half a minute, makes the next failure a first one.
    check_talking(
        policy(),
        "
        0    lost gone         => lose gone; open
        1    opened configured => replaced gone; use; replay 0..0
        2    created r1        =>
        3    done r1           =>
        4    lost gone         => lose gone; open
        5    opened configured => replaced gone; use; replay 0..0
        20000 audio 20         =>
        40005 lost gone        => lose gone; open
        ",
    );
}

#[test]
fn a_caller_who_has_not_begun_is_not_apologised_to() {
    check(
        policy(),
        "
        0    lost closed => lose closed; open
        10   opened      => replaced closed; use
        20   start       => configure
        30   updated     =>
        ",
    );
    check(
        policy(),
        "
        0    lost closed => lose closed; open
        20   start       =>
        30   audio 20    =>
        40   opened      => replaced closed; use; configure; replay 0..20
        50   updated     =>
        ",
    );
    let timeouts = CallTimeouts {
        replacement: ms(1_000),
        ..CallTimeouts::default()
    };
    check(
        CallPolicy {
            timeouts,
            ..policy()
        },
        "
        0    lost closed => lose closed; open
        1000 timer       => unavailable closed; end model_unavailable
        ",
    );
}

#[test]
fn a_farewell_needs_no_session() {
    check_talking(
        policy(),
        "
        100  created r1      =>
        200  delta r1 a 1000 => queue
        210  spoken a        =>
        220  call c1 hang_up =>
        225  lost closed     => lose closed
        1200 timer           => end assistant_hangup
        ",
    );
    check_talking(
        policy(),
        "
        100  created r1      =>
        200  delta r1 a 1000 => queue
        210  spoken a        =>
        220  call c1 hang_up =>
        225  done r1         =>
        230  lost closed     => lose closed
        1200 timer           => end assistant_hangup
        ",
    );
}

#[test]
fn what_the_operator_said_is_told_again_and_an_end_in_good_order_needs_a_session() {
    check_talking(
        policy(),
        "
        100   soon              => system \"Soon.\"
        200   lost gone         => lose gone; open
        250   soon              =>
        300   opened configured => replaced gone; use; system \"Soon.\"; system \"Soon.\"; replay 0..0
        ",
    );
    check_talking(
        policy(),
        "
        100   lost gone => lose gone; open
        200   over      =>
        10100 timer     => unavailable gone; end budget_exhausted
        ",
    );
}

#[test]
fn who_hangs_up_meanwhile_is_let_go() {
    check_talking(
        policy(),
        "
        0 lost gone => lose gone; open
        1 hangup    => end caller_hangup
        2 opened    =>
        ",
    );
}

// The session's cap.

#[test]
fn before_its_cap_a_session_is_replaced_in_a_pause() {
    check_talking(
        policy(),
        "
        0     expires 50000    =>
        24000 created r1       =>
        25000 timer            => open
        25100 opened           =>
        25200 delta r1 a 1000  => queue
        25300 spoken a         =>
        25400 call c1 look     => run c1 look
        25500 done r1          =>
        26300 tool c1          => output c1; create
        26400 created r2       =>
        26500 done r2          => rotated; use; configure; called c1; output c1; replay 0..0
        26600 updated          =>
        26700 expires 50000    =>
        29000 audio 20         =>
        ",
    );
    // Nobody speaks when it stands.
    check_talking(
        policy(),
        "
        0    expires 4000      =>
        2000 timer             => open
        2100 opened configured => rotated; use; replay 0..0
        ",
    );
}

#[test]
fn at_its_cap_a_session_is_left_whoever_speaks() {
    check_talking(
        policy(),
        "
        0     expires 40000     =>
        10    audio 1000        =>
        20    speech 200        =>
        20000 timer             => open
        20100 opened configured =>
        29000 audio 9000        =>
        35000 timer             => rotated; use; replay 0..20000
        35010 speech 200        =>
        ",
    );
    // No session was to be had in time.
    check_talking(
        policy(),
        "
        0     expires 40000  =>
        20000 timer          => open
        20100 none           =>
        25100 timer          => open
        25200 audio 20       =>
        36000 opened         => rotated; use; configure; replay 0..10020
        ",
    );
    // The one that was there already ended before it was wanted.
    check_talking(
        policy(),
        "
        0     expires 40000     =>
        10    speech            =>
        20000 timer             => open
        20100 opened configured =>
        21000 unopened          =>
        26000 timer             => open
        26100 opened configured =>
        29000 audio 20          =>
        35000 timer             => rotated; use; replay 0..5920
        ",
    );
    // Its end came first, and the other one was there already.
    check_talking(
        policy(),
        "
        0     expires 40000     =>
        10    speech            =>
        20000 timer             => open
        20100 opened configured =>
        21000 lost closed       => lose closed; replaced closed; use; replay 0..0
        ",
    );
}
