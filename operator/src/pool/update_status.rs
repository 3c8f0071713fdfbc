//! Decides the status of a pool, and writes it when it has changed.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tallylight_crds::{Condition, ConditionStatus, MediaPool, MediaPoolStatus, set_condition};

use super::{
    Context, Error,
    addresses::Addresses,
    build, news,
    plan::{self, Obstacle, Plan, Revision, State},
    validate::{Invalid, ValidatedPool},
};

use crate::{nodes::Availability, paused};

/// Free capacity changes with every session; by itself it is written this seldom.
const CAPACITY_PERIOD: Duration = Duration::from_secs(60);

/// What was found out about a pool.
pub(super) enum Found<'a> {
    /// The spec cannot be followed; nodes that there are run on.
    Invalid(&'a Invalid),
    /// Others make the nodes.
    Watched,
    Managed {
        pool: &'a ValidatedPool,
        pods: &'a [plan::Pod],
        plan: &'a Plan,
        addresses: &'a Addresses,
    },
}

/// Writes the status when it has changed; says when to look again because a change of capacity waits.
///
/// # Errors
/// When the API server refuses it.
pub(super) async fn update(
    pool: &MediaPool,
    found: &Found<'_>,
    written: &mut Option<Instant>,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let before = pool.status.clone().unwrap_or_default();
    let availability = context.nodes.lock().availability(&pool.namespace().unwrap_or_default(), &pool.name_any());
    let next = status(pool, found, Serving(availability == Availability::Open), crate::broadcast::now());
    if next == before {
        return Ok(None);
    }
    let is_capacity_only = MediaPoolStatus { ready_capacity: before.ready_capacity, ..next.clone() } == before;
    if let Some(at) = written.filter(|_| is_capacity_only) {
        let rest = CAPACITY_PERIOD.saturating_sub(at.elapsed());
        if !rest.is_zero() {
            return Ok(Some(rest));
        }
    }
    let api: Api<MediaPool> = Api::namespaced(context.client.clone(), &pool.namespace().unwrap_or_default());
    // A member that is left out stays in a merge patch: those that may go are sent as null.
    let patch = json!({"metadata": {"uid": pool.uid()}, "status": {
        "observedGeneration": next.observed_generation, "replicas": next.replicas, "readyReplicas": next.ready_replicas,
        "updatedReplicas": next.updated_replicas, "readyCapacity": next.ready_capacity, "selector": next.selector,
        "address": next.address, "addresses": next.addresses,
        "conditions": next.conditions,
    }});
    match api.patch_status(&pool.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {
            *written = Some(Instant::now());
            context.events.pool(pool, news::of_change(&before, &next)).await;
            Ok(None)
        }
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(None), // gone, or another of its name
        Err(source) => Err(Error::WriteStatus { source }),
    }
}

/// Whether a node of the pool takes publishers.
#[derive(Clone, Copy)]
struct Serving(bool);

fn status(pool: &MediaPool, found: &Found<'_>, serving: Serving, now: Timestamp) -> MediaPoolStatus {
    let before = pool.status.clone().unwrap_or_default();
    let mut next = MediaPoolStatus {
        observed_generation: pool.metadata.generation,
        conditions: before.conditions.clone(),
        ..MediaPoolStatus::default()
    };
    let mut findings = match found {
        Found::Invalid(invalid) => {
            // What is there is still there.
            next = MediaPoolStatus { observed_generation: next.observed_generation, ..before };
            vec![finding("Accepted", false, invalid.reason(), invalid.to_string())]
        }
        Found::Watched => {
            next.conditions.retain(|condition| condition.kind != "CapacityMet");
            let ready = match serving {
                Serving(true) => finding("Ready", true, "NodesServe", "a media node takes publishers".into()),
                Serving(false) => finding(
                    "Ready",
                    false,
                    "NoMediaNode",
                    "no media node serves this pool: start one with --pool, or let the operator make them with spec.nodes"
                        .into(),
                ),
            };
            vec![accepted(), ready]
        }
        Found::Managed { pool, pods, plan, addresses } => {
            next.address.clone_from(&addresses.of_pool);
            next.addresses.clone_from(&addresses.of_nodes);
            let serving: Vec<&plan::Pod> =
                pods.iter().filter(|pod| matches!(pod.state, State::Starting | State::Ready | State::Lost)).collect();
            let count = |is: &dyn Fn(&plan::Pod) -> bool| i32::try_from(serving.iter().filter(|p| is(p)).count()).ok();
            next.replicas = count(&|_| true);
            next.ready_replicas = count(&|pod| pod.state == State::Ready);
            next.updated_replicas = count(&|pod| pod.revision == Revision::Current);
            next.ready_capacity = i32::try_from(plan::ready_capacity(&pool.bounds, pods)).ok();
            next.selector = Some(build::pool_selector(&pool.name));
            vec![accepted(), ready(pool, pods), capacity(pool, pods, plan)]
        }
    };
    if paused::is_paused(pool) {
        let message = paused::message("the operator makes, changes and stops no node of this pool");
        findings.push(finding(paused::CONDITION, true, paused::REASON, message));
    } else {
        next.conditions.retain(|condition| condition.kind != paused::CONDITION);
    }
    for Finding { kind, holds, reason, message } in findings {
        let condition = Condition {
            kind: kind.into(),
            status: if holds { ConditionStatus::True } else { ConditionStatus::False },
            observed_generation: pool.metadata.generation,
            last_transition_time: now,
            reason: reason.into(),
            message,
        };
        set_condition(&mut next.conditions, condition);
    }
    next
}

struct Finding {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn finding(kind: &'static str, holds: bool, reason: &'static str, message: String) -> Finding {
    Finding { kind, holds, reason, message }
}

fn accepted() -> Finding {
    finding("Accepted", true, "Valid", "the spec is valid".into())
}

fn ready(pool: &ValidatedPool, pods: &[plan::Pod]) -> Finding {
    if pods.iter().any(|pod| pod.state == State::Ready) {
        return finding("Ready", true, "NodesReady", "a media node takes publishers".into());
    }
    if pool.bounds.max == 0 {
        let message = "spec.nodes asks for no nodes: kubectl scale mediapool, or set minNodes".into();
        return finding("Ready", false, "ScaledToZero", message);
    }
    let message = format!("no media node is ready yet: kubectl describe pods -l {}", build::pool_selector(&pool.name));
    finding("Ready", false, "NodesStarting", message)
}

fn capacity(pool: &ValidatedPool, pods: &[plan::Pod], plan: &Plan) -> Finding {
    let bounds = &pool.bounds;
    let (reason, message) = match plan.obstacle {
        Some(Obstacle::AtMaxNodes) => (
            "AtMaxNodes",
            "there are maxNodes nodes, with less free capacity than minReadyCapacity: raise maxNodes".into(),
        ),
        Some(Obstacle::Backoff) => {
            ("PodsFailing", "media pods failed lately: the next one is made after a pause; kubectl get events".into())
        }
        Some(Obstacle::NoFreePort) => {
            ("NoFreePort", "every port of spec.nodes.portRange is in use or rests after use: widen it".into())
        }
        None => {
            let ready = pods.iter().filter(|pod| pod.state == State::Ready).count();
            if ready >= bounds.min && plan::ready_capacity(bounds, pods) >= bounds.min_ready {
                return finding("CapacityMet", true, "Enough", "there are as many nodes as asked for".into());
            }
            ("NodesStarting", "nodes are on their way".into())
        }
    };
    finding("CapacityMet", false, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::validate::tests::{pool, validated};

    fn reasons(status: &MediaPoolStatus) -> Vec<String> {
        status.conditions.iter().map(|c| format!("{}={:?} {}", c.kind, c.status, c.reason)).collect()
    }

    #[test]
    fn a_pool_whose_nodes_others_make_tells_whether_one_serves() {
        let plain = pool(json!({}));
        let after = |serving| reasons(&status(&plain, &Found::Watched, Serving(serving), Timestamp::UNIX_EPOCH));

        assert_eq!(after(true), ["Accepted=True Valid", "Ready=True NodesServe"]);
        assert_eq!(after(false), ["Accepted=True Valid", "Ready=False NoMediaNode"]);
    }

    #[test]
    fn an_invalid_spec_keeps_what_is_known_of_the_nodes() {
        let mut broken = pool(json!({}));
        broken.status = Some(MediaPoolStatus { replicas: Some(2), ..MediaPoolStatus::default() });

        let after = status(&broken, &Found::Invalid(&Invalid::NoImage), Serving(true), Timestamp::UNIX_EPOCH);

        assert_eq!(after.replicas, Some(2));
        assert_eq!(reasons(&after), ["Accepted=False NoImage"]);
    }

    #[test]
    fn an_obstacle_is_told() {
        let raw = pool(json!({"minNodes": 1}));
        let valid = validated(json!({"minNodes": 1})).unwrap();
        for (obstacle, reason) in [
            (Some(Obstacle::AtMaxNodes), "CapacityMet=False AtMaxNodes"),
            (Some(Obstacle::Backoff), "CapacityMet=False PodsFailing"),
            (Some(Obstacle::NoFreePort), "CapacityMet=False NoFreePort"),
            (None, "CapacityMet=False NodesStarting"),
        ] {
            let plan = Plan { obstacle, ..Plan::default() };
            let found = Found::Managed { pool: &valid, pods: &[], plan: &plan, addresses: &Addresses::default() };
            let after = status(&raw, &found, Serving(false), Timestamp::UNIX_EPOCH);
            assert_eq!(reasons(&after), ["Accepted=True Valid", "Ready=False NodesStarting", reason]);
            assert_eq!((after.replicas, after.ready_capacity), (Some(0), Some(0)));
        }
    }
}
