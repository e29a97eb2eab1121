{{/* The labels of everything. Call with (dict "root" $ "component" "controller"). */}}
{{- define "oac.labels" -}}
{{ include "oac.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What tells the pods of a component from all others; it never changes. */}}
{{- define "oac.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* What is named for the whole cluster has to tell releases of one name in two namespaces apart. */}}
{{- define "oac.clusterwide-name" -}}
{{ .Release.Namespace }}:{{ .Release.Name }}
{{- end }}

{{- define "oac.installation" -}}
{{ .Values.installation | default (printf "%s/%s" .Release.Namespace .Release.Name) }}
{{- end }}
