//! What a Service is to encoders: one address, and behind it those nodes that say that they are ready.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::service::Service;

/// A node that does not say so within this time is not ready.
const READY: Duration = Duration::from_secs(1);

/// Forwards connections. Dropping it cuts them.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    nodes: Nodes,
    _tasks: JoinSet<()>,
}

type Nodes = Arc<Mutex<Vec<Node>>>;

#[derive(Debug, Clone)]
struct Node {
    http: String,
    rtmp: String,
}

impl Front {
    /// Begins to listen, in front of nobody.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, nodes) = (listener.local_addr()?, Nodes::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&nodes)));
        Ok(Self { address, nodes, _tasks: tasks })
    }

    /// Adds a node. One that ends takes no connections any more, as one that is not ready.
    ///
    /// # Errors
    /// When it is no media-node.
    pub fn add(&self, node: &Service) -> Result<()> {
        let node = Node { http: node.address("http")?.to_owned(), rtmp: node.address("rtmp")?.to_owned() };
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(node);
        Ok(())
    }

    /// Returns the address at which `stream` of `app` is published and played.
    #[must_use]
    pub fn rtmp(&self, app: &str, stream: &str) -> String {
        format!("rtmp://{}/{app}/{stream}", self.address)
    }
}

async fn serve(listener: TcpListener, nodes: Nodes) {
    let mut connections = JoinSet::new();
    let mut turn = 0;
    while let Ok((client, _)) = listener.accept().await {
        turn += 1;
        let nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        connections.spawn(forward(client, nodes, turn));
        while connections.try_join_next().is_some() {}
    }
}

/// Takes a client to a node that is ready, each in turn; without one its connection is closed.
async fn forward(mut client: TcpStream, mut nodes: Vec<Node>, turn: usize) {
    if !nodes.is_empty() {
        let first = turn % nodes.len();
        nodes.rotate_left(first);
    }
    for node in nodes {
        let ready = timeout(READY, is_ready(&node.http)).await;
        if matches!(ready, Ok(Ok(true)))
            && let Ok(mut server) = TcpStream::connect(&node.rtmp).await
        {
            // Either side's end is the other's.
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            return;
        }
    }
}

/// Asks for `/readyz`, by hand: a client with TLS for each of a hundred connections takes seconds to make.
async fn is_ready(http: &str) -> io::Result<bool> {
    let mut node = TcpStream::connect(http).await?;
    node.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
    let mut answer = [0; 12];
    node.read_exact(&mut answer).await?;
    Ok(answer.ends_with(b" 200"))
}
