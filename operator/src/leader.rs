//! Which of several operators writes: the holder of one Lease.
//!
//! [`Election`] decides, without a clock or a client: a Lease is old when *we* have seen it unchanged for its whole duration,
//! whatever its own times say, and we stop leading by our own clock when we could not renew, whatever the API server says.
//! Every write names the version that was read, so of two contenders one gets it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        authentication::v1::{SelfSubjectReview, UserInfo},
        coordination::v1::{Lease, LeaseSpec},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
const NAME: &str = "tallylight-operator";
/// A Lease that nobody has renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// We stop leading this long after our last renewal: before anybody else may take the Lease, with room for a request that is
/// still under way.
const DEADLINE: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(5);
/// How often a follower looks, and how soon a renewal that failed is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const REQUEST: Duration = Duration::from_secs(3);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Write the Lease as ours: take it, or renew it.
    Write,
    /// Somebody else leads.
    Wait,
}

/// What one contender knows.
#[derive(Debug)]
struct Election {
    me: String,
    /// The Lease's holder and renewal as text, and when we saw it change last.
    seen: Option<(String, Instant)>,
    /// When our last renewal was asked for; `None` while we follow.
    renewed: Option<Instant>,
}

impl Election {
    fn new(me: String) -> Self {
        Self { me, seen: None, renewed: None }
    }

    /// Decides on a Lease that was just read: its holder, and its renewal as text.
    fn decide(&mut self, holder: Option<&str>, renewal: &str, now: Instant) -> Decision {
        let Some(holder) = holder.filter(|holder| !holder.is_empty()) else { return Decision::Write };
        if holder == self.me {
            return Decision::Write;
        }
        self.renewed = None;
        let looks = format!("{holder}/{renewal}");
        match &self.seen {
            Some((before, since)) if *before == looks => {
                if now.saturating_duration_since(*since) >= DURATION {
                    Decision::Write
                } else {
                    Decision::Wait
                }
            }
            _ => {
                self.seen = Some((looks, now));
                Decision::Wait
            }
        }
    }

    /// A write that was asked for at `asked` has succeeded.
    fn written(&mut self, asked: Instant) {
        self.renewed = Some(asked);
    }

    /// Until when we lead, if we do.
    fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + DEADLINE)
    }
}

/// Whether this process leads. Clones tell the same.
#[derive(Clone)]
pub(crate) struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Of an operator that is the only one.
    pub(crate) fn unopposed() -> Self {
        Self(watch::channel(true).1)
    }

    pub(crate) fn holds(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when this process leads.
    pub(crate) async fn gained(&self) {
        // An election that has ended without us will not make us a leader; the process is about to end.
        if !self.holds() && self.0.clone().wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How the election of this process ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// We were asked to stop, and have let go of the Lease.
    Released,
    /// We led and could not renew: whatever is under way must stop now.
    Lost,
}

/// Takes part in the election for one process.
pub(crate) struct Candidate {
    api: Api<Lease>,
    namespace: String,
    election: Election,
    leads: watch::Sender<bool>,
    known: Option<Arc<Lease>>,
    owner: Option<OwnerReference>,
}

impl Candidate {
    /// `identity` is unique to this process: a restarted container is another contender.
    pub(crate) fn new(client: Client, namespace: &str, identity: String) -> (Self, Leadership) {
        let (leads, leadership) = watch::channel(false);
        let api = Api::namespaced(client, namespace);
        let namespace = namespace.to_owned();
        let candidate = Self { api, namespace, election: Election::new(identity), leads, known: None, owner: None };
        (candidate, Leadership(leadership))
    }

    /// Contends until cancelled, then lets go; or until a Lease that was held is lost.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> End {
        self.owner = self.account().await;
        loop {
            let pause = match self.round().await {
                Ok(true) => RENEW,
                Ok(false) => RETRY,
                Err(error) => {
                    tracing::debug!(%error, "the leader's Lease could not be read or written");
                    self.known = None;
                    RETRY
                }
            };
            let leads = self.election.renewed.is_some();
            if *self.leads.borrow() && !leads {
                return End::Lost;
            }
            if self.leads.send_if_modified(|was| std::mem::replace(was, leads) != leads) && leads {
                tracing::info!("leading");
            }
            let deadline = self.election.leads_until();
            tokio::select! {
                () = cancel.cancelled() => return self.release().await,
                () = tokio::time::sleep(pause) => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return End::Lost;
            }
        }
    }

    /// The account that we run as: whoever removes it, as the chart's uninstallation does, removes the Lease with it. None when
    /// we are no ServiceAccount of the Lease's namespace, or nobody tells.
    async fn account(&self) -> Option<OwnerReference> {
        let review: Api<SelfSubjectReview> = Api::all(self.api.clone().into_client());
        let answer = within(review.create(&PostParams::default(), &SelfSubjectReview::default())).await;
        let user =
            answer.inspect_err(|error| tracing::debug!(%error, "who we are is not known")).ok()?.status?.user_info?;
        account(user, &self.namespace)
    }

    /// Reads and, if it is ours to do, writes the Lease; says whether we hold it.
    async fn round(&mut self) -> Result<bool, Error> {
        let lease = match self.known.take() {
            Some(known) => Some(known),
            None => within(self.api.get_opt(NAME)).await?.map(Arc::new),
        };
        let spec = lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let renewal = format!("{:?}", spec.renew_time);
        let asked = Instant::now();
        if self.election.decide(spec.holder_identity.as_deref(), &renewal, asked) == Decision::Wait {
            return Ok(false);
        }
        let next = self.lease(lease.as_deref(), &self.election.me);
        let params = PostParams::default();
        let written = match lease {
            Some(_) => within(self.api.replace(NAME, &params, &next)).await?,
            None => within(self.api.create(&params, &next)).await?,
        };
        self.known = Some(Arc::new(written));
        self.election.written(asked);
        Ok(true)
    }

    async fn release(mut self) -> End {
        if let Some(held) = self.known.take().filter(|_| self.election.renewed.is_some()) {
            let next = self.lease(Some(&held), "");
            if let Err(error) = within(self.api.replace(NAME, &PostParams::default(), &next)).await {
                tracing::debug!(%error, "the Lease was not let go of; it runs out by itself");
            }
        }
        End::Released
    }

    fn lease(&self, before: Option<&Lease>, holder: &str) -> Lease {
        let old = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let same = old.holder_identity.as_deref() == Some(holder);
        let transitions = old.lease_transitions.unwrap_or(0) + i32::from(!same && before.is_some());
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if same { old.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        let mut metadata = before.map_or_else(
            || ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        );
        if let Some(owner) = &self.owner {
            metadata.owner_references = Some(vec![owner.clone()]);
        }
        Lease { metadata, spec: Some(spec) }
    }
}

fn account(user: UserInfo, namespace: &str) -> Option<OwnerReference> {
    let username = user.username?;
    let (of, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        uid: user.uid.filter(|_| of == namespace)?,
        ..OwnerReference::default()
    })
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server refuses")]
    Refused { source: Box<kube::Error> },
    #[error("the API server does not answer")]
    Silent,
}

async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(answer) => answer.map_err(|source| Error::Refused { source: Box::new(source) }),
        Err(_elapsed) => Err(Error::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_lease_goes_with_an_account_of_its_own_namespace() {
        let owner = |username: &str| {
            let user = UserInfo { username: Some(username.into()), uid: Some("u1".into()), ..UserInfo::default() };
            account(user, "media").map(|owner| (owner.name, owner.uid))
        };
        assert_eq!(owner("system:serviceaccount:media:operator"), Some(("operator".into(), "u1".into())));
        assert_eq!(owner("system:serviceaccount:other:operator"), None);
        assert_eq!(owner("kubernetes-admin"), None);
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        let mut election = Election::new("a".into());
        assert_eq!(election.decide(None, "", Instant::now()), Decision::Write);
        assert_eq!(election.decide(Some(""), "t1", Instant::now()), Decision::Write);
    }

    #[test]
    fn a_lease_that_is_renewed_is_never_taken_whatever_its_times_say() {
        let mut election = Election::new("a".into());
        let start = Instant::now();
        for round in 0..20 {
            let decision =
                election.decide(Some("b"), &format!("1970-01-01T00:00:{round:02}Z"), start + seconds(14 * round));
            assert_eq!(decision, Decision::Wait);
        }
    }

    #[test]
    fn a_lease_that_stays_as_it_is_for_its_whole_duration_is_taken() {
        let mut election = Election::new("a".into());
        let start = Instant::now();
        assert_eq!(election.decide(Some("b"), "t1", start), Decision::Wait);
        assert_eq!(election.decide(Some("b"), "t1", start + seconds(14)), Decision::Wait);
        assert_eq!(election.decide(Some("b"), "t1", start + seconds(15)), Decision::Write);
    }

    #[test]
    fn a_leader_stops_before_anybody_else_may_start() {
        let mut election = Election::new("a".into());
        let asked = Instant::now();
        election.written(asked);
        let until = election.leads_until().unwrap();
        assert!(until + REQUEST < asked + DURATION, "a request under way ends before the Lease is free");
    }

    #[test]
    fn a_leader_that_finds_another_holder_no_longer_leads() {
        let mut election = Election::new("a".into());
        election.written(Instant::now());
        assert_eq!(election.decide(Some("b"), "t9", Instant::now()), Decision::Wait);
        assert_eq!(election.leads_until(), None);
    }
}
