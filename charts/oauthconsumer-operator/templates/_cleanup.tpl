{{- define "oac.cleanup-hook" -}}
helm.sh/hook: {{ ternary "post-delete" "pre-delete" .Values.uninstall.force }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* The metadata of objects that the Job needs, so they are made first. Call with (dict "root" $ "name" NAME "namespace" NAMESPACE). */}}
{{- define "oac.cleanup-metadata" -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
annotations:
  {{- include "oac.cleanup-hook" .root | nindent 2 }}
  helm.sh/hook-weight: "-5"
labels:
  {{- include "oac.labels" (dict "root" .root "component" "cleanup") | nindent 2 }}
{{- end }}
