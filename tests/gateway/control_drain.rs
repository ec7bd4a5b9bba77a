//! Deployments that operators take out of service, and the calls that they had.

use std::time::Duration;

use tokio::time::sleep;
use trunkline::admin::control_proto as proto;
use trunkline::config::Config;
use trunkline::listener::Unchanged;

use crate::control_client::{AUDIO, Control, SDK, calls, phone};
use crate::harness::World;
use crate::wire::Wire;

fn pool() -> String {
    let deployment = |name: &str| {
        format!(
            "[deployments.{name}]\nurl = 'ws://127.0.0.1:1'\nmodel = '{name}'\napi_key = 'sim-key'\n"
        )
    };
    let all: String = ["east", "west"].map(deployment).concat();
    format!(
        "[auth]\nmode = 'none'\n{all}[pools.main]\ndeployments = [{{ name = 'east' }}, {{ name = 'west', priority = 1 }}]\n\
         [pools.main.standby]\nmin = 1\nmax = 2\n[agents.ga]\ndeployment = 'main'\n[models]\npreview = 'main'\n"
    )
}

#[tokio::test]
async fn a_drained_deployment_gets_no_session() {
    let config = pool();
    let control = Control::of(World::with_config(&config, ""), "").await;
    let world = &control.world;
    let mut client = control.client().await;
    let conducted = phone(world).await;
    let relayed = Wire::open(world, SDK).await;
    let stay = phone(world).await;
    for call in calls(&mut client, 3).await {
        assert_eq!(call.deployment, "east", "{call:?}");
    }
    let drain = |deployment: &str, move_calls| proto::DrainDeploymentRequest {
        deployment: deployment.to_owned(),
        move_calls,
    };
    let drained = client
        .drain_deployment(drain("east", false))
        .await
        .expect("drained");
    assert_eq!(drained.into_inner().calls, 3);
    // Another configuration: what is new under that name is not used either.
    let parsed = Config::parse(&config).expect("good");
    let routes = parsed.build(&config).expect("good");
    world
        .gateway
        .replace(parsed.listener, routes, &Unchanged::default());
    assert_eq!(
        world.metric(r#"trunkline_deployment_drained{deployment="east"}"#),
        1.0
    );
    let newcomer = phone(world).await;
    let all = calls(&mut client, 4).await;
    let places: Vec<_> = all.iter().map(|call| &*call.deployment).collect();
    assert_eq!(places, ["east", "east", "east", "west"]);
    // None stands by there.
    let request = || proto::ListDeploymentsRequest {};
    let east = loop {
        let listed = client
            .list_deployments(request())
            .await
            .expect("deployments");
        let east = listed.into_inner().deployments.remove(0);
        if east.standby == 0 {
            break east;
        }
        sleep(Duration::from_millis(10)).await;
    };
    assert!(east.is_drained && east.name == "east" && east.condition == "well");
    assert!(east.tokens.is_some_and(|quota| quota.limit > 0.0));
    // Nobody is left: refused at the door, by 503.
    client
        .drain_deployment(drain("west", false))
        .await
        .expect("drained");
    let refused = Wire::try_open(world, AUDIO).await.expect_err("refused");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let undrain = proto::UndrainDeploymentRequest {
        deployment: "west".to_owned(),
    };
    client.undrain_deployment(undrain).await.expect("undrained");
    assert_eq!(
        world.metric(r#"trunkline_deployment_drained{deployment="west"}"#),
        0.0
    );
    drop((conducted, relayed, stay, newcomer));
    calls(&mut client, 0).await;
    control.close().await;
}

#[tokio::test]
async fn the_calls_of_a_drained_deployment_go_on_elsewhere() {
    let control = Control::of(World::with_config(&pool(), ""), "").await;
    let mut client = control.client().await;
    let conducted = phone(&control.world).await;
    let relayed = Wire::open(&control.world, SDK).await;
    calls(&mut client, 2).await;
    let request = proto::DrainDeploymentRequest {
        deployment: "east".to_owned(),
        move_calls: true,
    };
    client.drain_deployment(request).await.expect("drained");
    loop {
        let all = calls(&mut client, 2).await;
        if all.iter().all(|call| call.deployment == "west") {
            assert!(all.iter().all(|call| call.sessions == 2), "{all:?}");
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    drop((conducted, relayed));
    calls(&mut client, 0).await;
    control.close().await;
}
