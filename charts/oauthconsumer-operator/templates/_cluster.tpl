{{/* The usernames of all controllers in the cluster: this release's own, and those of cluster.controllers. As a CEL list. */}}
{{- define "oac.controllers" -}}
{{- $own := printf "system:serviceaccount:%s:%s-controller" .Release.Namespace .Release.Name -}}
{{- toJson (prepend .Values.cluster.controllers $own | uniq) -}}
{{- end }}

{{/*
Whether the API server serves MutatingAdmissionPolicies as v1, as Kubernetes does from 1.36 on. `helm template` asks no API server, so
there the version decides.
*/}}
{{- define "oac.can-stamp" -}}
{{- if .Capabilities.APIVersions.Has "v1/Pod" -}}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" }}yes{{ end -}}
{{- else if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end }}

{{/*
The metadata of objects that a cluster has once. They stay after an uninstall: without the CRD all consumers would be deleted, and
without the others the CRD would be unprotected. Call with (dict "root" $ "name" NAME).
*/}}
{{- define "oac.cluster-metadata" -}}
name: {{ .name }}
annotations:
  helm.sh/resource-policy: keep
labels:
  {{- include "oac.labels" (dict "root" .root "component" "cluster") | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The binding of a policy, in all namespaces, with denials. */}}
{{- define "oac.policy-binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "oac.cluster-metadata" . | nindent 2 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end }}
