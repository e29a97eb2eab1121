#!/usr/bin/env bash
# usage: dev/chart.sh
#
# Checks the Helm chart: its copy of the CRD and its appVersion, helm lint, what it renders for each file in its ci/ folder on the oldest and the newest
# Kubernetes, that as kubeconform reads the API server's own schemas, and as a real API server takes it, with the Pod Security
# Standard `restricted`; and that unsuitable values are refused in words that help.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
chart=charts/oauthconsumer-operator

case ${1:-} in
  '')
    PATH=$("$here/controlplane/binaries.sh" helm kubeconform):$PATH
    export PATH
    exec "$here/with-control-plane.sh" "$0" inside
    ;;
  inside) ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac
cd "$here/.."
folder=$(mktemp -d "$DEV_CONTROL_PLANE_DIR/chart.XXXXXX")

say() { printf '%s\n' "chart: $*"; }
fail() {
  say "$*" >&2
  exit 1
}

# Helm 4 takes its own client's version for the cluster's unless told.
render() { helm template oac "$chart" --namespace oac-system "$@"; }

# refuses WORDS ARG...: values that are not taken, with a reason that holds WORDS.
refuses() {
  local words=$1 said
  shift
  ! said=$(render "$@" 2>&1 >/dev/null) || fail "took $*"
  [[ $said == *"$words"* ]] || fail "refused $* in other words than '$words': $said"
}

cmp crds/oauthconsumers.yaml "$chart/files/oauthconsumers.yaml" || fail "the chart's CRD is stale; run \`make generate\`"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
grep -qx "appVersion: $version" "$chart/Chart.yaml" || fail "Chart.yaml's appVersion is not Cargo.toml's version, $version"

say "the API server's schemas"
kubectl apply --filename crds/oauthconsumers.yaml >/dev/null
until kubectl get --raw /openapi/v2 >"$folder/openapi" && grep -q dev.oauthconsumers "$folder/openapi"; do sleep 0.2; done
dev/chart/schemas.py "$folder/schemas" <"$folder/openapi"
kubectl delete --filename crds/oauthconsumers.yaml >/dev/null

for namespace in oac-system team-a team-b team-c; do
  kubectl create namespace "$namespace" >/dev/null
done
kubectl label namespace oac-system pod-security.kubernetes.io/{enforce,warn}=restricted >/dev/null

for values in "$chart"/ci/*-values.yaml; do
  say "$(basename "$values")"
  helm lint --strict --quiet --values "$values" "$chart"
  for version in 1.33 1.36; do
    render --values "$values" --kube-version "$version" >"$folder/rendered.yaml"
    kubeconform -strict -schema-location "$folder/schemas/{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json" "$folder/rendered.yaml"
    # It knows what no schema says: CEL that compiles, ports that have names, pods that are restricted.
    said=$(kubectl apply --dry-run=server --validate=strict --filename "$folder/rendered.yaml" 2>&1) || fail "$(grep -v 'server dry run' <<<"$said")"
    [[ $said != *Warning* ]] || fail "$(grep Warning <<<"$said")"
  done
done

say "unsuitable values"
ok=(--set 'namespaces={team-a}')
postgres=(--set 'store.type=postgres,store.postgres.controller.secretName=a,store.postgres.signin.secretName=b')
render "${ok[@]}" >/dev/null
render "${ok[@]}" "${postgres[@]}" >/dev/null
refuses 'the values do not say which namespaces to manage'
refuses 'leave one of them out' "${ok[@]}" --set secrets.clusterWide=true
refuses "at '/controller/replicas': value must be 1" "${ok[@]}" --set controller.replicas=2
refuses "at '/signin/replicas': value must be 1" "${ok[@]}" --set signin.replicas=2
refuses "at '/store/postgres/controller/secretName'" "${ok[@]}" --set store.type=postgres
refuses "at '/store/postgres/signin/secretName'" "${ok[@]}" --set store.type=postgres,store.postgres.controller.secretName=a
refuses "at '/store/postgres/ca/configMapName'" "${ok[@]}" "${postgres[@]}" --set store.postgres.ca.secretName=a,store.postgres.ca.configMapName=b
refuses "at '/store/sqlite/volume'" "${ok[@]}" --set store.sqlite.existingClaim=a,store.sqlite.volume.emptyDir.medium=Memory
refuses "at '/store/type': value must be one of" "${ok[@]}" --set store.type=mysql
refuses 'no approval counts: leave the policies in' "${ok[@]}" --set cluster.policies=false
refuses 'this release does not bring the policies' "${ok[@]}" --set 'cluster.create=false,cluster.controllers={a}'
refuses "at '/approval/proof': value must be one of" "${ok[@]}" --set approval.proof=sometimes
refuses 'limits.memory is too small' "${ok[@]}" --set controller.resources.limits.cpu=32
# One thread keeps 19 MiB, connections take 32 or with TLS 64, and 64 are for everything else.
one=(--set signin.resources.limits.cpu=1)
render "${ok[@]}" "${postgres[@]}" "${one[@]}" --set signin.resources.limits.memory=115Mi >/dev/null
refuses '32Mi for connections to /signin: set it to 115Mi' "${ok[@]}" "${postgres[@]}" "${one[@]}" --set signin.resources.limits.memory=114Mi
render "${ok[@]}" "${postgres[@]}" "${one[@]}" --set signin.tls.secretName=a,signin.resources.limits.memory=147Mi >/dev/null
refuses 'set it to 147Mi' "${ok[@]}" "${postgres[@]}" "${one[@]}" --set signin.tls.secretName=a,signin.resources.limits.memory=146Mi
refuses "at '/namespaces/0'" --set 'namespaces={Team_A}'
refuses "additional properties 'aproval' not allowed" "${ok[@]}" --set aproval.proof=off
refuses "additional properties 'prof' not allowed" "${ok[@]}" --set approval.prof=off
refuses "missing property 'signin'" "${ok[@]}" --set signin=null
refuses "at '/signin/trustedProxies/0'" "${ok[@]}" --set 'signin.trustedProxies={gateway}'
refuses "app.kubernetes.io/name" "${ok[@]}" --set 'podLabels.app\.kubernetes\.io/name=mine'
refuses "at '/controller/sweepPeriod'" "${ok[@]}" --set controller.sweepPeriod=0s
say "all as it should be"
