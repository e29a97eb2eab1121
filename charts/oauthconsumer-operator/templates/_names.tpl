{{/* The labels of all objects. Call with (dict "root" $ "component" "controller"). */}}
{{- define "oac.labels" -}}
{{ include "oac.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels that select the pods of a component. They must never change. */}}
{{- define "oac.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* A name for the whole cluster, different for two releases of the same name in two namespaces. */}}
{{- define "oac.clusterwide-name" -}}
{{ .Release.Namespace }}:{{ .Release.Name }}
{{- end }}

{{- define "oac.installation" -}}
{{ .Values.installation | default (printf "%s/%s" .Release.Namespace .Release.Name) }}
{{- end }}
