#!/usr/bin/env bash
# The node's provisioner: makes a volume for every claim of the StorageClass `standard`, which is the default, and removes
# it after the claim. A volume is a folder of the node's own; like a disk, and unlike hostPath, it heeds a pod's fsGroup.
# usage: volumes.sh FOLDER    where the volumes are
set -euo pipefail
provisioner=dev.local/folder

kubectl apply -f - <<Y
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: $provisioner
Y

# watch KIND COLUMNS: a line for every object there is and for every change, without end; the server ends a watch at times.
watch() {
  while sleep 1; do kubectl get "$1" --all-namespaces --watch --no-headers -o custom-columns="$2"; done
}

# The claim's uid is part of the volume's name: a claim that is made anew is another one.
{
  watch persistentvolumeclaims 'A:.kind,B:.status.phase,C:.spec.storageClassName,D:.metadata.uid,E:.metadata.namespace,F:.metadata.name,G:.spec.resources.requests.storage,H:.spec.accessModes[0]' &
  watch persistentvolumes 'A:.kind,B:.status.phase,C:.spec.storageClassName,D:.metadata.name' &
  wait
} | while read -r kind phase class id namespace name size mode; do
  case $class-$kind-$phase in
    standard-PersistentVolumeClaim-Pending)
      mkdir -p "$1/pvc-$id"
      kubectl apply -f - <<Y
apiVersion: v1
kind: PersistentVolume
metadata: {name: "pvc-$id", annotations: {pv.kubernetes.io/provisioned-by: $provisioner}}
spec:
  storageClassName: standard
  persistentVolumeReclaimPolicy: Delete
  capacity: {storage: "$size"}
  accessModes: [$mode]
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: "$namespace", name: "$name", uid: "$id"}
  local: {path: "$1/pvc-$id"}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}
Y
      ;;
    standard-PersistentVolume-Released)
      kubectl delete persistentvolume "$id" --ignore-not-found --wait=false
      rm -rf "${1:?}/$id"
      ;;
  esac
done
