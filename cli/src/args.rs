//! The command line. Others script against it: names and meanings stay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pullpiri_crds::names::CONTROLLERS_LEASE;

use crate::values::{assignment, duration, namespace_name, node_name, object_name, rate, topic};

/// Orchestrates the services of a software-defined vehicle.
#[derive(Parser, Debug)]
#[command(name = "pullpiri", version, about, long_about = None, after_help = "\
Examples:
  pullpiri up --data-dir /var/lib/pullpiri              an API server, controllers and a node in one process
  kubectl --kubeconfig /var/lib/pullpiri/kubeconfig.yaml get pullpiri -A
  pullpiri convert bms-eco.yaml | kubectl apply -f -    published manifests become resources
  pullpiri signal set PowertrainTransmissionCurrentGear=P")]
pub(crate) struct Cli {
    /// How log lines look. RUST_LOG filters them (default: info).
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run API server, controllers and node runtime in one process
    Up(Up),
    /// Run the API server alone
    Apiserver(Apiserver),
    /// Run the controllers alone, against any Kubernetes API server
    Controllers(Controllers),
    /// Run this ECU's node runtime and join a control plane
    Node(Node),
    /// Turn published Pullpiri manifests into resources, as YAML on stdout
    Convert(Convert),
    /// Print the CustomResourceDefinitions as YAML
    #[command(after_help = "Example:\n  pullpiri crds | kubectl apply --server-side -f -")]
    Crds,
    /// Read or set vehicle signals
    Signal(SignalArgs),
    /// Show real-time tasks against their proofs, and network classes against their promises
    Top(Top),
    /// Prove real-time task sets
    Schedule(ScheduleArgs),
    /// Ask what Networks allow
    Net(NetArgs),
    /// The node's image store
    Image(ImageArgs),
    /// Delete everything that was declared, and wait until nothing of it runs
    Purge(Purge),
    /// Issue a client certificate for a node or a person, as a kubeconfig on stdout
    Kubeconfig(Kubeconfig),
    /// Print a shell's completion script
    #[command(after_help = "Example:\n  pullpiri completion bash > /etc/bash_completion.d/pullpiri")]
    Completion {
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args, Debug)]
pub(crate) struct Serving {
    /// Where state is kept: the store, certificates, images, logs
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Address to serve the Kubernetes API on; may be repeated, and the certificates follow
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6443")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Seconds for which history is kept: as long as a client may take over a paged list, or be away from a watch
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) compaction_interval: u32,
    #[command(flatten)]
    pub(crate) etcd: Etcd,
}

/// The flags are kube-apiserver's.
#[derive(Args, Debug)]
pub(crate) struct Etcd {
    /// Keep objects in an etcd cluster, which several API servers may share, instead of the data directory: its members' URLs
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) etcd_servers: Vec<String>,
    /// The CA of etcd's certificates, for https URLs
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// The certificate to identify by to etcd
    #[arg(long, value_name = "FILE", requires = "etcd_cafile", requires = "etcd_keyfile")]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with
    #[arg(long, value_name = "PREFIX", default_value = pullpiri_store::etcd::DEFAULT_PREFIX)]
    pub(crate) etcd_prefix: String,
}

#[derive(Args, Debug)]
pub(crate) struct Workloads {
    /// The node's default runtime adapter
    #[arg(long, value_enum, default_value_t = RuntimeChoice::Auto)]
    pub(crate) runtime: RuntimeChoice,
    /// Podman's REST socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/podman/podman.sock")]
    pub(crate) podman_socket: PathBuf,
    /// Also run Models of runtime kubernetes, as Pods of the kubelet of this machine: its Kubernetes node's name
    #[arg(long, value_name = "NAME")]
    pub(crate) kubernetes_node: Option<String>,
    /// Stop this node's workloads on SIGTERM instead of leaving them running
    #[arg(long)]
    pub(crate) stop_workloads: bool,
    /// Serve Prometheus metrics over plain HTTP on this address
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// The interface to other nodes (default: the one that leads to the API server, or by default out)
    #[arg(long, value_name = "IFACE")]
    pub(crate) uplink: Option<String>,
    /// How fast the link to other nodes is, in bits per second: 100M (default: what its driver says; the NodeRuntime's
    /// spec.uplink comes before both)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) link_rate: Option<u64>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuntimeChoice {
    /// oci where it works, else podman
    Auto,
    /// The OCI runtime inside this binary
    Oci,
    /// Podman's REST socket
    Podman,
    /// Pods of this machine's kubelet; needs --kubernetes-node
    Kubernetes,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  pullpiri up --data-dir /var/lib/pullpiri --listen 127.0.0.1:6443 --listen 10.0.0.1:6443 --node ZONE")]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) serving: Serving,
    /// This ECU's name (default: the host's name); registered in lower case
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) workloads: Workloads,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pullpiri apiserver --data-dir /var/lib/pullpiri
  pullpiri apiserver --data-dir /var/lib/pullpiri --etcd-servers http://10.0.0.1:2379,http://10.0.0.2:2379,http://10.0.0.3:2379")]
pub(crate) struct Apiserver {
    #[command(flatten)]
    pub(crate) serving: Serving,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Several may run: the one that holds the Lease acts, the others take over when it ends. Ready, alive and metrics are at /readyz, /healthz and
/metrics of --metrics-listen.

Examples:
  pullpiri controllers --kubeconfig /etc/pullpiri/controllers.yaml --metrics-listen 127.0.0.1:9091
  pullpiri controllers --leader-elect=false             the only ones that there are")]
pub(crate) struct Controllers {
    /// Default: $KUBECONFIG, ~/.kube/config or the pod's service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Serve Prometheus metrics and health over plain HTTP on this address
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Serve signals.pullpiri.io over TLS on this address, as an aggregated API behind an APIService (default: the API server has it itself)
    #[arg(long, value_name = "ADDR")]
    pub(crate) signals_listen: Option<SocketAddr>,
    /// Where the other replicas reach --signals-listen (default: its address, or $POD_IP if that is unspecified)
    #[arg(long, value_name = "HOST:PORT", requires = "signals_listen")]
    pub(crate) signals_advertise: Option<String>,
    #[command(flatten)]
    pub(crate) election: LeaderElection,
}

/// The names, meanings and defaults are kube-controller-manager's.
#[derive(Args, Debug)]
pub(crate) struct LeaderElection {
    /// Act only while holding a Lease
    #[arg(
        long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = clap::ArgAction::Set
    )]
    pub(crate) leader_elect: bool,
    /// How long others wait for a holder that isn't heard of
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub(crate) leader_elect_lease_duration: Duration,
    /// How long the holder acts without a renewal that is confirmed; less than the lease
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) leader_elect_renew_deadline: Duration,
    /// Between attempts to take or renew the Lease
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) leader_elect_retry_period: Duration,
    /// The Lease's namespace (default: the pod's, else kube-system)
    #[arg(long, value_name = "NS", value_parser = namespace_name)]
    pub(crate) leader_elect_namespace: Option<String>,
    /// The Lease's name
    #[arg(long, value_name = "NAME", default_value = CONTROLLERS_LEASE, value_parser = object_name)]
    pub(crate) leader_elect_name: String,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  pullpiri kubeconfig --data-dir /var/lib/pullpiri --user system:node:HPC --group system:nodes \\
      --server https://10.0.0.1:6443 > hpc.yaml
  pullpiri node --kubeconfig hpc.yaml --name HPC --data-dir /var/lib/pullpiri-node")]
pub(crate) struct Node {
    /// Default: the pod's service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// This ECU's name; registered in lower case
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub(crate) name: String,
    /// Where state is kept: images, pods, logs, the ledger
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// In a pod with hostPID: see the host's files as a program of the host does, and let workloads outlive the pod; every path is the
    /// host's then. Whose files those are: process 1's, or those of the container runtime
    #[arg(long, value_name = "WHOSE", value_enum, num_args = 0..=1, default_missing_value = "init", require_equals = true)]
    pub(crate) host_mount_namespace: Option<HostOf>,
    #[command(flatten)]
    pub(crate) workloads: Workloads,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostOf {
    /// Of process 1
    Init,
    /// Of the container runtime, whose process is this one's parent
    Runtime,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Deletes every Scenario, Package, Model, Volume, Network, Schedule, Policy and Claim in all namespaces, and waits until the nodes have stopped
what ran. For before an uninstall that takes the CRDs away.

Example:
  pullpiri purge --yes --timeout 120")]
pub(crate) struct Purge {
    /// Really
    #[arg(long, required = true)]
    pub(crate) yes: bool,
    /// Seconds to wait for nodes to stop what runs
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Args, Debug)]
#[command(after_help = "\
A folder with a package.yaml is a scope: its Models, Networks and Volumes get the package's name as prefix.

Examples:
  pullpiri convert bms-eco.yaml | kubectl apply -f -
  pullpiri convert --strict manifests/")]
pub(crate) struct Convert {
    /// Files, or folders whose *.yaml and *.yml files are read
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
    /// Treat every guess as an error
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pullpiri signal set PowertrainTransmissionCurrentGear=P
  pullpiri signal get PowertrainTransmissionCurrentGear
  kubectl get signals --watch")]
pub(crate) struct SignalArgs {
    #[command(subcommand)]
    pub(crate) verb: SignalVerb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum SignalVerb {
    /// Set fields of signals
    #[command(after_help = "\
Without a field, the field or fields that scenarios read of the topic are set.

Examples:
  pullpiri signal set PowertrainTransmissionCurrentGear=P
  pullpiri signal set 'PowertrainTransmissionCurrentGear#gear=P' 'Vehicle.Speed#value=31.5'")]
    Set {
        /// TOPIC[#FIELD]=VALUE
        #[arg(required = true, value_name = "TOPIC[#FIELD]=VALUE", value_parser = assignment)]
        assignments: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Print fields of signals
    #[command(after_help = "Example:\n  pullpiri signal get PowertrainTransmissionCurrentGear#gear")]
    Get {
        /// TOPIC[#FIELD]
        #[arg(required = true, value_name = "TOPIC[#FIELD]", value_parser = topic)]
        topics: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Connection {
    /// Default: $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Rates and round trips come from the nodes' metrics (--metrics-listen), tasks from the ModelInstances' status.

Examples:
  pullpiri top
  pullpiri top --watch -n chassis")]
pub(crate) struct Top {
    /// Only this namespace (default: all)
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Look again every second until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[arg(short, long, value_enum, default_value_t = TopOutput::Table)]
    pub(crate) output: TopOutput,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopOutput {
    Table,
    /// One object per look
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct NetArgs {
    #[command(subcommand)]
    pub(crate) verb: NetVerb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum NetVerb {
    /// Say whether a connection is allowed, by which rule, and in which class it is sent
    #[command(after_help = "\
A Model stands for all its instances. Exit status: 0 allowed, 1 denied, 2 no answer.

Examples:
  pullpiri net explain sensor brake 7001/UDP
  pullpiri net explain 203.0.113.9 screen 80/TCP -n chassis -o json
  pullpiri net explain video screen icmp")]
    Explain {
        /// A ModelInstance, a Model or an address
        from: String,
        /// A ModelInstance, a Model or an address
        to: String,
        /// 7001/UDP, 80/TCP or icmp
        #[arg(value_name = "PORT/PROTO")]
        port: String,
        #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
        namespace: String,
        #[arg(short, long, value_enum, default_value_t = NetOutput::Text)]
        output: NetOutput,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetOutput {
    Text,
    /// One array with an object per pair of instances
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct ScheduleArgs {
    #[command(subcommand)]
    pub(crate) verb: ScheduleVerb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ScheduleVerb {
    /// Prove that every task of a Schedule meets its deadline, without a cluster
    #[command(after_help = "\
The pure analysis, unless --node brings a node's CPUs and what its kernel admits. Exit status: 0 schedulable, 1 not, 2 bad input.

Examples:
  pullpiri schedule check -f schedule.yaml --node-cpus 2
  kubectl get noderuntime zone -o yaml > zone.yaml && pullpiri schedule check -f schedule.yaml --node zone.yaml
  pullpiri schedule check -f schedule.yaml -o svg > critical-instant.svg")]
    Check {
        /// A file with one Schedule, other documents beside it allowed; - is stdin
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// How many CPUs each node has (default: as many as the tasks name, at least 1)
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
        node_cpus: Option<u32>,
        /// A NodeRuntime as YAML, for its CPUs and kernel ceilings; may be repeated
        #[arg(long = "node", value_name = "FILE", conflicts_with = "node_cpus")]
        nodes: Vec<PathBuf>,
        #[arg(short, long, value_enum, default_value_t = ScheduleOutput::Table)]
        output: ScheduleOutput,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScheduleOutput {
    Table,
    Json,
    /// A Gantt chart of the critical instant
    Svg,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pullpiri image load blis.tar --data-dir /var/lib/pullpiri
  pullpiri image build --reference localhost/blis:1.0 --file target/release/blis:/blis --output blis.tar -- /blis")]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    pub(crate) verb: ImageVerb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ImageVerb {
    /// Load an OCI or docker archive, also while the node runs
    #[command(
        after_help = "Example:\n  podman save --format oci-archive localhost/blis:1.0 -o blis.tar\n  pullpiri image load blis.tar --data-dir /var/lib/pullpiri"
    )]
    Load {
        archive: PathBuf,
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Write an OCI archive that holds files of this machine and nothing else
    #[command(after_help = "\
Example:
  pullpiri image build --reference localhost/blis:1.0 --file target/release/blis:/blis --output blis.tar -- /blis")]
    Build {
        /// The image's name, e.g. localhost/blis:1.0
        #[arg(long)]
        reference: String,
        /// HOST_PATH:IMAGE_PATH; may be repeated
        #[arg(long = "file", value_name = "HOST:IMAGE", required = true)]
        files: Vec<String>,
        /// NAME=VALUE, told by the image; may be repeated
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// UID[:GID] that it runs as (default: root)
        #[arg(long)]
        user: Option<String>,
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// The entrypoint's words
        #[arg(last = true, required = true)]
        entrypoint: Vec<String>,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pullpiri kubeconfig --data-dir /var/lib/pullpiri --user alice --group system:masters --server https://127.0.0.1:6443
  pullpiri kubeconfig --data-dir /var/lib/pullpiri --user system:node:HPC --group system:nodes --server https://10.0.0.1:6443
  pullpiri kubeconfig --data-dir /var/lib/pullpiri --user system:pullpiri:controllers --server https://10.0.0.1:6443")]
pub(crate) struct Kubeconfig {
    /// The API server's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The certificate's common name
    #[arg(long)]
    pub(crate) user: String,
    /// The certificate's organisation; may be repeated
    #[arg(long)]
    pub(crate) group: Vec<String>,
    /// The API server's URL as the user reaches it
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_election_is_on_unless_told() {
        let elects = |arguments: &[&str]| {
            let all = ["pullpiri", "controllers"].iter().chain(arguments);
            match Cli::parse_from(all).command {
                Command::Controllers(controllers) => controllers.election.leader_elect,
                other => panic!("{other:?}"),
            }
        };
        assert!(elects(&[]) && elects(&["--leader-elect"]) && elects(&["--leader-elect=true"]));
        assert!(!elects(&["--leader-elect=false"]));
    }
}
