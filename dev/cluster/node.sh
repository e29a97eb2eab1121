#!/usr/bin/env bash
# The node of dev/with-cluster.sh, which starts this as the first process of its own PID, mount and network namespaces:
# when this ends, the kernel ends everything else in there. Ends when one of the daemons does.
# usage: node.sh FOLDER BIN FD    the state folder, the folders of the programs as for PATH, and where to say why it ended
set -euo pipefail
folder=$1 complaints=$3
export PATH=$2:$PATH
here=$(cd "$(dirname "$0")" && pwd)

cd -P /proc/self # still the machine's /proc, so this is the number of this process out there
echo "${PWD##*/}" >"$folder/node.pid"
cd "$folder"
mount -t proc proc /proc

# The kubelet sets these for the whole machine, unless they have the values that it wants.
mkdir -p sysctl etcd cni kubelet pods
while read -r name value; do
  echo "$value" >"sysctl/${name//\//.}"
  mount --bind "sysctl/${name//\//.}" "/proc/sys/$name"
done <<'S'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
S

# Where containerd, CNI and the kubelet put files without asking.
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/lib/upper /run/lib/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/lib/upper,workdir=/run/lib/work overlay /var/lib

# Pods' cgroups are below this one. cgroup v1 has one tree for each controller; new ones in cpuset are without any CPU.
cgroup=$(basename "$folder")
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  sed 's/\(^\| \)/&+/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
  mkdir "/sys/fs/cgroup/$cgroup"
else
  for tree in /sys/fs/cgroup/*/; do
    [ ! -e "$tree/cgroup.procs" ] || mkdir -p "$tree/$cgroup" # -p: the name of a tree can be a link to another
  done
  for file in cpuset.cpus cpuset.mems; do
    cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$cgroup/$file"
  done
fi

until [ -e addresses ]; do sleep 0.05; done
read -r node_ip pods services <addresses

daemon() { # name command...
  local name=$1
  shift
  "$@" >"$name.log" 2>&1 </dev/null &
  names[$!]=$name
}
declare -a names

# until_true SECONDS COMMAND...
until_true() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || { echo "not in time: $*"; exit 1; }
    sleep 0.1
  done
}

daemon etcd etcd --data-dir etcd --unsafe-no-fsync --log-level warn
# --cert-dir: the server makes a serving certificate there, followed by the CA that signed it.
daemon apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address 0.0.0.0 --advertise-address "$node_ip" \
  --secure-port 6443 --cert-dir certs --token-auth-file tokens.csv --authorization-mode Node,RBAC \
  --enable-admission-plugins NodeRestriction --allow-privileged --service-cluster-ip-range "$services" \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file service-accounts.key \
  --service-account-signing-key-file service-accounts.key --kubelet-preferred-address-types InternalIP \
  --kubelet-client-certificate kubelet-client.crt --kubelet-client-key kubelet-client.key

# restrict_oom_score_adj: also for root, lowering it can be forbidden. disable_apparmor: containerd would load a profile
# into the machine's kernel, and leave it there. opt: a folder that it would make outside of this one.
snapshotter=overlayfs
[ "$(stat -f -c %T .)" != overlayfs ] || snapshotter=native # an overlay on an overlay is not allowed
cat >containerd.toml <<T
version = 2
root = "$folder/containerd"
state = "/run/containerd"
[grpc]
  address = "$folder/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$folder/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "dev.local/busybox:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
T
# ptp: every packet between pods is routed, and so translated where it goes to a Service, without a kernel module for bridges.
cat >cni/10-ptp.conflist <<T
{"cniVersion": "0.4.0", "name": "dev", "plugins": [{"type": "ptp", "ipMasq": false,
  "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
T
daemon containerd containerd -c containerd.toml

# One image for whatever pods need a shell for, and for what keeps the namespaces of every pod.
"$here/../image/root.sh" "$(command -v busybox)" busybox
mkdir -p busybox/bin
for applet in $(busybox --list); do ln -sfn /usr/bin/busybox "busybox/bin/$applet"; done
python3 "$here/../image/archive.py" busybox busybox.tar --name dev.local/busybox:1 --user 0:0 --cmd /bin/sleep 2147483647 --env PATH=/bin
export CONTAINERD_ADDRESS=$folder/containerd.sock CONTAINERD_NAMESPACE=k8s.io
until_true 30 ctr version
ctr images import --snapshotter "$snapshotter" busybox.tar

export KUBECONFIG=$folder/kubeconfig KUBECACHEDIR=$folder/kube-cache
until_true 90 kubectl --request-timeout 5s get --raw /readyz

daemon controller-manager kube-controller-manager --kubeconfig kube-controller-manager.kubeconfig --bind-address 127.0.0.1 \
  --service-account-private-key-file service-accounts.key --root-ca-file certs/apiserver.crt \
  --use-service-account-credentials --leader-elect=false
daemon scheduler kube-scheduler --kubeconfig kube-scheduler.kubeconfig --bind-address 127.0.0.1 --leader-elect=false
# Without the conntrack options, which it would set for the whole machine.
daemon proxy kube-proxy --kubeconfig kube-proxy.kubeconfig --proxy-mode nftables --cluster-cidr "$pods" --hostname-override node1 \
  --bind-address 127.0.0.1 --conntrack-max-per-core 0 --conntrack-min 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0

# No eviction and no image is collected: it is the machine's disk, and it may be nearly full.
cat >kubelet.yaml <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$folder/containerd.sock
resolvConf: $folder/resolv.conf
podLogsDir: $folder/pods
volumePluginDir: $folder/opt/volumes
failSwapOn: false
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
enforceNodeAllocatable: []
oomScoreAdj: 0
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: $folder/kubelet-client.crt}
authorization: {mode: AlwaysAllow}
T
: >resolv.conf
daemon kubelet kubelet --config kubelet.yaml --kubeconfig kubelet.kubeconfig --root-dir "$folder/kubelet" --hostname-override node1 --node-ip "$node_ip"
daemon volumes "$here/volumes.sh" "$folder/volumes"

until_true 60 kubectl wait --for condition=Ready node/node1 --timeout 10s
until_true 30 kubectl --namespace default get serviceaccount default # without which no pod can be made
touch ready

wait -n -p ended || true
{
  echo "with-cluster.sh: ${names[ended]} ended, and the cluster with it; the end of its log:"
  tail -n 20 "${names[ended]}.log"
} >&"$complaints"
exit 1
