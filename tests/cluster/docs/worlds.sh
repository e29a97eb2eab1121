# shellcheck shell=bash
# What the commands of a page find: its first line names one of these functions.

# A cluster, and the images that pages use where they can be pulled from: ours, and nginx.
empty() {
  local image folder
  image=oauthconsumer-operator:$(sed -n 's/^appVersion: //p' charts/oauthconsumer-operator/Chart.yaml)
  ctr images tag --force "docker.io/library/$image" "registry.example.com/$image"
  if [ -z "$(ctr images list -q name==docker.io/library/nginx:1.28)" ]; then
    folder=$(mktemp -d)
    dev/image/root.sh "$(readlink -f "$(dev/gateways.sh)/nginx")" "$folder/root"
    dev/image/archive.py "$folder/root" "$folder/nginx.tar" --name nginx:1.28 --env PATH=/usr/bin
    dev/cluster/load-image.sh "$folder/nginx.tar"
    rm -r "$folder"
  fi
}

# docs/how-to/install.md was followed, and nobody has registered anything yet.
installed() {
  empty
  namespaces
  install
}

# jazz may sign in.
consumer() {
  installed
  jazz
}

# The same on PostgreSQL, with two pods of each kind.
postgres() {
  empty
  namespaces
  for role in owner signin; do
    kubectl -n oauth create secret generic "oauth-store-$role" --from-literal="url=$DATABASE_URL"
  done
  install --set store.type=postgres --set store.postgres.controller.secretName=oauth-store-owner \
    --set store.postgres.signin.secretName=oauth-store-signin
  jazz
}

namespaces() {
  kubectl create namespace oauth
  kubectl label namespace oauth pod-security.kubernetes.io/enforce=restricted
  kubectl create namespace team-a
}

# install [ARG...]
install() {
  helm install oauth charts/oauthconsumer-operator --namespace oauth --wait \
    --set 'namespaces={team-a}' --set image.repository=registry.example.com/oauthconsumer-operator "$@"
  until consumer_object probe 'approved: true' | kubectl create --dry-run=server -o yaml -f - | grep -q oauthconsumers.dev/decided-by; do
    sleep 0.5
  done
}

# consumer_object NAME [FIELD]
consumer_object() {
  cat <<Y
apiVersion: oauthconsumers.dev/v1alpha1
kind: OAuthConsumer
metadata:
  name: $1
  namespace: team-a
spec:
  name: Jazz Team Server
  secretRef: {name: jazz-oauth, key: consumerSecret}
  ${2:-}
Y
}

jazz() {
  kubectl -n team-a create rolebinding approvers --clusterrole oauthconsumers-approver --user alice
  kubectl -n team-a create rolebinding editors --clusterrole edit --user bob
  until kubectl -n team-a auth can-i create oauthconsumers --as bob; do sleep 0.5; done
  openssl rand -hex 32 | tr -d '\n' | kubectl -n team-a --as bob create secret generic jazz-oauth --from-file=consumerSecret=/dev/stdin
  consumer_object jazz | kubectl --as bob create -f -
  kubectl -n team-a --as alice patch oauthconsumer jazz --field-manager oauthconsumers-approval --type merge -p '{"spec":{"approved":true}}'
  kubectl -n team-a wait --for=condition=Active oauthconsumer jazz --timeout=60s
}
