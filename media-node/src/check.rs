//! `check`: goes the whole way of a broadcast in a cluster, as a user would: makes a Broadcast whose hooks come here, waits until it
//! is ready, publishes the built-in clip through RTMP, and waits for the start and the end. `helm test` runs it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use axum::{Router, extract::State, http::StatusCode, routing::post};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tallylight_crds::{Broadcast, ConditionStatus};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cli::CheckArgs,
    http,
    standalone::{announce::print, demo::publisher},
};

/// How long the clip is on air: a few keyframes.
const ON_AIR: Duration = Duration::from_secs(5);
/// Between two looks at the Broadcast.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for an answer of the API server.
const ANSWER: Duration = Duration::from_secs(10);
/// Hooks that were not looked at yet; two are sent, and one that finds no room is answered 503 and sent again.
const HOOKS: usize = 16;

/// Runs the check to its end.
///
/// # Errors
/// When a step fails or does not come within the time; the text names the step, and is printed too.
pub async fn run(args: CheckArgs) -> anyhow::Result<()> {
    let checked = check(args).await;
    if let Err(error) = &checked {
        print(&format!("check    failed: {error:#}\n"));
    }
    checked
}

async fn check(args: CheckArgs) -> anyhow::Result<()> {
    let (client, namespace) = connect(&args).await?;
    let broadcasts = Api::<Broadcast>::namespaced(client, &namespace);
    let listener = TcpListener::bind(args.hook_address)
        .await
        .with_context(|| format!("failed to listen on {}: choose another --hook-address", args.hook_address))?;
    let url = hook_url(&args.advertise_address, listener.local_addr()?);
    let (sender, mut hooks) = mpsc::channel(HOOKS);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let routes = Router::new().route("/", post(take)).with_state(sender);
    tasks.spawn(http::serve(listener, routes, stop.clone()));

    let id = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("check-{}", id.get(..8).unwrap_or_default());
    let limit = Duration::from_secs(args.timeout_seconds.into());
    let went = timeout(limit, steps(&args, &broadcasts, &name, &url, &mut hooks)).await;
    let deleted = timeout(ANSWER, broadcasts.delete(&name, &DeleteParams::default())).await;
    stop.cancel();
    tasks.close();
    went.unwrap_or_else(|_elapsed| bail!("that took more than {} s (--timeout-seconds)", limit.as_secs()))?;
    deleted.context("no answer to the deletion of the Broadcast")?.context("failed to delete the Broadcast")?;
    print("check    all of it works\n");
    Ok(())
}

async fn steps(
    args: &CheckArgs,
    broadcasts: &Api<Broadcast>,
    name: &str,
    url: &str,
    hooks: &mut mpsc::Receiver<String>,
) -> anyhow::Result<()> {
    let broadcast: Broadcast = serde_json::from_value(json!({
        "apiVersion": tallylight_crds::API_VERSION, "kind": "Broadcast", "metadata": {"name": name},
        "spec": {"pool": args.pool, "name": "Check", "listenerHookURL": url},
    }))?;
    let made = timeout(ANSWER, broadcasts.create(&PostParams::default(), &broadcast)).await;
    made.context("no answer to the creation of a Broadcast")?.context("failed to create a Broadcast")?;
    print(&format!("check    Broadcast {name} is made; its hooks go to {url}\n"));
    until_ready(broadcasts, name).await?;
    print("check    it is ready: a publisher would be accepted\n");
    let server = tokio::net::lookup_host(&args.rtmp_server)
        .await
        .ok()
        .and_then(|mut found| found.next())
        .with_context(|| format!("--rtmp-server {} has no address", args.rtmp_server))?;
    publisher::publish(server, &args.app, name, ON_AIR).await.context("failed to publish")?;
    print(&format!("check    the clip was on air at rtmp://{}/{}/{name}\n", args.rtmp_server, args.app));
    for expected in ["liveStreamStarted", "liveStreamEnded"] {
        loop {
            let body = hooks.recv().await.context("the receiver has ended")?;
            let field = |name: &str| form_urlencoded::parse(body.as_bytes()).find(|(key, _)| key == name);
            let value = |name: &str| field(name).map(|(_, value)| value.into_owned()).unwrap_or_default();
            match value("action") {
                action if action == expected && value("id") == name => break,
                // an earlier one again: at least once is the promise
                action => print(&format!("check    passed over {action} of {}\n", value("id"))),
            }
        }
        print(&format!("check    {expected} has arrived\n"));
    }
    Ok(())
}

/// Waits for the condition Ready, and says meanwhile what it lacks.
async fn until_ready(broadcasts: &Api<Broadcast>, name: &str) -> anyhow::Result<()> {
    let mut said = String::new();
    loop {
        let found = timeout(ANSWER, broadcasts.get(name)).await.context("no answer to the reading of the Broadcast")?;
        let conditions = found.context("failed to read the Broadcast")?.status.unwrap_or_default().conditions;
        let ready = conditions.iter().find(|condition| condition.kind == "Ready");
        let lacks = ready.map_or("the operator has not looked at it yet", |ready| ready.message.as_str());
        if ready.is_some_and(|ready| ready.status == ConditionStatus::True) {
            return Ok(());
        }
        if said != lacks {
            lacks.clone_into(&mut said);
            print(&format!("check    not ready yet: {said}\n"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn take(State(hooks): State<mpsc::Sender<String>>, body: String) -> StatusCode {
    if hooks.try_send(body).is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Where the operator reaches this process.
fn hook_url(host: &str, bound: SocketAddr) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("http://{host}:{}/", bound.port())
}

async fn connect(args: &CheckArgs) -> anyhow::Result<(Client, String)> {
    let config = match &args.kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file)
                .with_context(|| format!("failed to read --kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster().context("not in a pod; name a cluster with --kubeconfig")?,
    };
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok((Client::try_from(config)?, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_url_takes_addresses_of_both_families() {
        let bound = SocketAddr::from(([0, 0, 0, 0], 8080));
        assert_eq!(hook_url("10.1.2.3", bound), "http://10.1.2.3:8080/");
        assert_eq!(hook_url("fd00::7", bound), "http://[fd00::7]:8080/");
    }
}
