{{- define "oac.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "oac.sqlite" -}}
{{- if eq .Values.store.type "sqlite" }}yes{{ end -}}
{{- end }}

{{/* The metadata of a pod. Call with (dict "root" $ "component" "controller"). */}}
{{- define "oac.pod-metadata" -}}
labels:
  {{- include "oac.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := deepCopy .root.Values.podAnnotations }}
{{- if and .root.Values.metrics.scrapeAnnotations (ne .component "cleanup") }}
{{- $annotations = merge $annotations (dict "prometheus.io/scrape" "true" "prometheus.io/port" "9090" "prometheus.io/path" "/metrics") }}
{{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The common part of all pods: where they run, as which user, and the Pod Security Standard `restricted`. */}}
{{- define "oac.pod-common" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  # Only their owner may read the store's files, so their modes stay as they are once the volume is ours.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pods of a component prefer different nodes and zones. */}}
{{- define "oac.spread" -}}
topologySpreadConstraints:
{{- $context := . }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "oac.selector" $context | nindent 6 }}
  matchLabelKeys: [pod-template-hash] # the old pods of a rollout do not count
{{- end }}
{{- end }}

{{- define "oac.container-common" -}}
image: {{ include "oac.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/*
/livez depends only on the process itself, so only a process that does not answer is restarted. Its port opens first, so it serves as
the startup probe, too. /readyz takes a pod out of the Service. Its result for the store is a few seconds old.
*/}}
{{- define "oac.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{/* Flags that all programs understand. */}}
{{- define "oac.flags-common" -}}
- --admin-addr={{ .Values.listenAddress }}:9090
{{- if not (include "oac.sqlite" .) }}
- --store-url-file=/etc/oauthconsumer-operator/store/url
{{- end }}
- {{ printf "--log-level=%s" .Values.log.level | quote }}
- --log-format={{ .Values.log.format }}
- --hash-memory={{ .Values.hash.memory | int }}
- --hash-passes={{ .Values.hash.passes | int }}
{{- end }}

{{- define "oac.flags-signin" -}}
{{- $signin := .Values.signin -}}
- --signin-addr={{ .Values.listenAddress }}:8080
- --max-staleness={{ $signin.maxStaleness }}
- --miss-limit-caller={{ $signin.missLimit.caller | int }}
- --miss-limit-key={{ $signin.missLimit.key | int }}
{{- with $signin.trustedProxies }}
- --trusted-proxies={{ join "," . }}
{{- end }}
{{- if $signin.tls.secretName }}
- --signin-tls-cert=/etc/oauthconsumer-operator/tls/tls.crt
- --signin-tls-key=/etc/oauthconsumer-operator/tls/tls.key
{{- end }}
{{- end }}

{{/* Variables of a container that uses the store. */}}
{{- define "oac.env" -}}
{{- $ca := .Values.store.postgres.ca }}
{{- if and (not (include "oac.sqlite" .)) (or $ca.secretName $ca.configMapName) }}
- {name: PGSSLMODE, value: verify-full}
- {name: PGSSLROOTCERT, value: /etc/oauthconsumer-operator/postgres/ca.crt}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The mounts and volumes of a container that uses PostgreSQL. No subPath, because changes do not arrive through one. */}}
{{- define "oac.postgres-mounts" -}}
{{- $ca := .Values.store.postgres.ca -}}
- {name: store-url, mountPath: /etc/oauthconsumer-operator/store, readOnly: true}
{{- if or $ca.secretName $ca.configMapName }}
- {name: postgres-ca, mountPath: /etc/oauthconsumer-operator/postgres, readOnly: true}
{{- end }}
{{- end }}

{{/* Call with (dict "root" $ "url" .Values.store.postgres.signin). */}}
{{- define "oac.postgres-volumes" -}}
{{- $ca := .root.Values.store.postgres.ca -}}
- name: store-url
  secret:
    secretName: {{ .url.secretName }}
    items: [{key: {{ .url.key | quote }}, path: url}]
    defaultMode: 0440 # the group is ours
{{- if $ca.secretName }}
- name: postgres-ca
  secret:
    secretName: {{ $ca.secretName }}
    items: [{key: {{ $ca.key | quote }}, path: ca.crt}]
{{- else if $ca.configMapName }}
- name: postgres-ca
  configMap:
    name: {{ $ca.configMapName }}
    items: [{key: {{ $ca.key | quote }}, path: ca.crt}]
{{- end }}
{{- end }}

{{- define "oac.tls-volume" -}}
{{- with .Values.signin.tls.secretName -}}
- name: signin-tls
  secret:
    secretName: {{ . }}
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
    defaultMode: 0440 # the group is ours
{{- end }}
{{- end }}
