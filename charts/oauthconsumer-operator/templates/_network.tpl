{{/* What the pods may connect to, as lists of egress rules. */}}
{{- define "oac.to-dns" -}}
- ports:
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
  {{- with .Values.networkPolicy.dns.to }}
  to:
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "oac.to-api-server" -}}
{{- template "oac.egress" .Values.networkPolicy.apiServer -}}
{{- end }}

{{- define "oac.to-postgres" -}}
{{- template "oac.egress" .Values.networkPolicy.postgres -}}
{{- end }}

{{- define "oac.egress" -}}
- ports:
  {{- range .ports }}
  - {port: {{ int . }}, protocol: TCP}
  {{- end }}
  {{- with .to }}
  to:
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Which clients may connect to the sign-in check, and to the metrics. */}}
{{- define "oac.from-gateways" -}}
- ports:
  - {port: signin, protocol: TCP}
  {{- with .Values.networkPolicy.signinFrom }}
  from:
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "oac.from-monitoring" -}}
{{- with .Values.networkPolicy.adminFrom -}}
- ports:
  - {port: admin, protocol: TCP}
  from:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
