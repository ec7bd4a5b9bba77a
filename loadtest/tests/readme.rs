//! What the README shows works: its scenario is read by the program, and its measures are there.

use trunkline_loadtest::measure::Measure;
use trunkline_loadtest::scenario::Scenario;

const README: &str = include_str!("../README.md");

#[test]
fn the_example_is_a_scenario() {
    let blocks = README.split("```toml\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    let scenarios: Vec<_> = blocks.filter(|text| text.contains("[target]")).collect();
    assert_eq!(scenarios.len(), 1);
    let scenario = Scenario::parse(scenarios[0]).unwrap();
    assert_eq!(scenario.thresholds.measures.len(), 2);
    assert!(scenario.simulator.is_some());
}

#[test]
fn every_measure_it_names_is_one() {
    for name in [
        "start_lag",
        "send_lag",
        "first_audio",
        "barge_in_clear",
        "frame_up",
        "frame_down",
        "frame_round_trip",
    ] {
        assert!(README.contains(name), "{name}");
        assert!(Measure::ALL.iter().any(|it| it.name() == name), "{name}");
    }
}
