//! The controllers as an operator: of several replicas one acts, whatever goes wrong between them and the API server.
//!
//! Each case runs against the embedded API server, and against a real kube-apiserver where there is one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod aggregated;
mod faults;
mod processes;
mod support;
mod terms;

use std::future::Future;
use std::pin::Pin;

use support::{Place, Plane};

type Case = (&'static str, fn(Place) -> Pin<Box<dyn Future<Output = ()>>>);

/// Side by side they would see each other's objects; each has a namespace of its own, and ends with its controllers.
async fn run(plane: &Plane, cases: &[Case]) {
    for (name, case) in cases {
        let started = std::time::Instant::now();
        let place = plane.place(name).await;
        case(place.clone()).await;
        place.clear().await;
        println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    }
}

macro_rules! cases {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "-", stringify!($name)), |place| Box::pin($module::$name(place)))),*]
    };
}

const TERMS: &[Case] = cases![terms::handed_over, terms::runs_out, terms::made_anew, terms::quiet,];

const FAULTS: &[Case] = cases![faults::down, faults::refusals, faults::watches, faults::answers, faults::clocks,];

/// Names of namespaces have no underscores.
fn named(cases: &'static [Case]) -> Vec<Case> {
    cases.iter().map(|(name, case)| (&*name.replace('_', "-").leak(), *case)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terms_on_the_embedded_server() {
    let plane = Plane::embedded().await;
    run(&plane, &named(TERMS)).await;
    terms::least_privilege(&plane).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_on_the_embedded_server() {
    run(&Plane::embedded().await, &named(FAULTS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_on_the_embedded_server() {
    run(&Plane::embedded().await, &named(cases![faults::slow])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_on_a_real_kube_apiserver() {
    if let Some(plane) = Plane::real().await {
        run(&plane, &named(TERMS)).await;
        run(&plane, &named(FAULTS)).await;
        aggregated::signals(&plane).await;
    }
}
