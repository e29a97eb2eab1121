{{/* The usernames of all controllers in the cluster: this release's own, and those of cluster.controllers. As a CEL list. */}}
{{- define "oac.controllers" -}}
{{- $own := printf "system:serviceaccount:%s:%s-controller" .Release.Namespace .Release.Name -}}
{{- toJson (prepend .Values.cluster.controllers $own | uniq) -}}
{{- end }}

{{/*
Whether the API server serves MutatingAdmissionPolicies as v1, which Kubernetes does from 1.36 on. A server that was asked has
told its kinds; where none was, as in `helm template`, the version has to do.
*/}}
{{- define "oac.can-stamp" -}}
{{- if .Capabilities.APIVersions.Has "v1/Pod" -}}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" }}yes{{ end -}}
{{- else if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end }}

{{/*
Metadata of what there is once in a cluster. It stays when the release goes: the CRD, because with it all consumers would go,
and with it the rest, because a CRD that stays must not stay unguarded. Call with (dict "root" $ "name" NAME).
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

{{/* The binding of a policy: everywhere, and it denies. */}}
{{- define "oac.policy-binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "oac.cluster-metadata" . | nindent 2 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end }}
