{{/* Checks of the values that the schema cannot make, or cannot explain. */}}
{{- define "oac.checks" -}}
{{- $all := .Values.secrets.clusterWide -}}
{{- if and (not .Values.namespaces) (not $all) }}
{{- fail "the values do not say which namespaces to manage: list them in `namespaces`. To manage all, set `secrets.clusterWide` to true; the controller may then read every Secret of the cluster" }}
{{- end }}
{{- if and .Values.namespaces $all }}
{{- fail "`namespaces` and `secrets.clusterWide` contradict each other about the Secrets that the controller may read: leave one of them out" }}
{{- end }}
{{- if and .Values.cluster.create (not .Values.cluster.policies) (eq (include "oac.approval-proof" .) "required") }}
{{- fail "without the policies (`cluster.policies: false`) no approval counts: leave the policies in, or set `approval.proof` to off. With off, every user who may update an OAuthConsumer may approve it" }}
{{- end }}
{{- if and .Values.cluster.controllers (not (and .Values.cluster.create .Values.cluster.policies)) }}
{{- fail "`cluster.controllers` has no effect here, because this release does not bring the policies: set it in the release with `cluster.create` and `cluster.policies`" }}
{{- end }}
{{- $sqlite := include "oac.sqlite" . }}
{{- $controller := .Values.controller.resources }}
{{- include "oac.check-memory" (dict "root" $ "resources" $controller "what" "controller" "signin" $sqlite "controller" true) }}
{{- if not $sqlite }}
{{- include "oac.check-memory" (dict "root" $ "resources" .Values.signin.resources "what" "signin" "signin" true) }}
{{- end }}
{{- end }}

{{/* The number of threads that hash: one for each whole core of limits.cpu; 0 if that is unlimited. */}}
{{- define "oac.hash-threads" -}}
{{- $cpu := dig "limits" "cpu" "" .resources | toString -}}
{{- $cores := 0 -}}
{{- if hasSuffix "m" $cpu }}{{ $cores = max 1 (div (trimSuffix "m" $cpu | int) 1000) }}
{{- else if $cpu }}{{ $cores = max 1 (floor (float64 $cpu) | int) }}
{{- end -}}
{{- $threads := 0 -}}
{{- if $cores }}
{{- if .signin }}{{ $threads = add $threads $cores }}{{ end -}}
{{- if .controller }}{{ $threads = add $threads (max 1 (sub $cores 1)) }}{{ end -}}
{{- end -}}
{{- $threads -}}
{{- end }}

{{/* limits.memory in MiB; 0 if there is none, or it is not in one of the usual units. */}}
{{- define "oac.memory-limit" -}}
{{- $memory := dig "limits" "memory" "" .resources | toString -}}
{{- if hasSuffix "Mi" $memory }}{{ trimSuffix "Mi" $memory | float64 | int }}
{{- else if hasSuffix "Gi" $memory }}{{ mulf (trimSuffix "Gi" $memory | float64) 1024 | int }}
{{- else if hasSuffix "M" $memory }}{{ mulf (trimSuffix "M" $memory | float64) 0.95 | int }}
{{- else if hasSuffix "G" $memory }}{{ mulf (trimSuffix "G" $memory | float64) 953 | int }}
{{- else }}0{{ end -}}
{{- end }}

{{/*
Fails if a client could exhaust a pod's memory. With wrong secrets, a client can make all threads hash. With the 1,024 connections to
/signin, it can make each take 32 KiB, or 64 KiB with TLS. At least 64 MiB are for everything else.
*/}}
{{- define "oac.check-memory" -}}
{{- $threads := include "oac.hash-threads" . | int }}
{{- $limit := include "oac.memory-limit" . | int }}
{{- $connections := 0 }}
{{- if .signin }}{{ $connections = ternary 64 32 (not (empty .root.Values.signin.tls.secretName)) }}{{ end }}
{{- $need := add 64 $connections (div (mul $threads (.root.Values.hash.memory | int)) 1024) | int }}
{{- if and $limit $threads (lt $limit $need) }}
{{- fail (printf "%s.resources.limits.memory is too small for %d threads with hash.memory each and %dMi for connections to /signin: set it to %dMi or more, or lower limits.cpu" .what $threads $connections $need) }}
{{- end }}
{{- end }}

{{/* YAML reads off without quotes as false. */}}
{{- define "oac.approval-proof" -}}
{{- if has (toString .Values.approval.proof) (list "off" "false") }}off{{ else }}required{{ end -}}
{{- end }}
