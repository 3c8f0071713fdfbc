//! The ledger keeps its promises on a real API server, as it does on SQLite.

use anyhow::Result;
use ledger::KubeStore;
use tests::install;

#[tokio::test]
async fn the_kubernetes_store_passes_the_conformance_suite() -> Result<()> {
    let tenant = install::tenant("ledger").await?;
    let store = KubeStore::new(tenant.admin.clone(), "tests");

    Box::pin(ledger::conformance::run(&store, &tenant.namespace)).await;
    Ok(())
}
