//! `pullpiri apiserver`: the API server alone.

use crate::args::Apiserver;
use crate::control_plane::ControlPlane;
use crate::fail::Failure;
use crate::shutdown;

pub(crate) async fn run(arguments: &Apiserver) -> Result<(), Failure> {
    let stop = shutdown::on_signals()?;
    let mut control_plane = ControlPlane::open(&arguments.serving, Vec::new()).await?;
    control_plane.serve(&arguments.serving.data_dir)?;
    stop.cancelled().await;
    control_plane.close().await
}
