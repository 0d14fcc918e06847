{{/* Environment variables. Each is an option of the service, or one of OpenTelemetry or TLS that it reads. */}}

{{/* The text of a value of config. Helm reads every number as a float, and would print large ones with an exponent. */}}
{{- define "customer-accounts.text" -}}
{{- if kindIs "slice" . -}}
{{ join "," . }}
{{- else if kindIs "float64" . -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end }}
{{- end }}

{{/*
What all commands get: config, DATABASE_URL, and the authorities that issuers and sslrootcert=system are verified by. Takes (dict "root" $ "secretName" … "key" …).
*/}}
{{- define "customer-accounts.env" -}}
{{- range $name, $value := .root.Values.config }}
- name: CUSTOMER_ACCOUNTS_{{ $name | upper | replace "-" "_" }}
  value: {{ include "customer-accounts.text" $value | quote }}
{{- end }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secretName | quote }}
      key: {{ .key | quote }}
{{- with .root.Values.issuerCA }}
{{- if .configMapName }}
- name: SSL_CERT_FILE
  value: /etc/customer-accounts/issuer-ca/{{ .key }}
{{- end }}
{{- end }}
{{- end }}

{{/* The files of TLS, which `serve` and `healthcheck` read from where customer-accounts.tlsVolumes mounts them. */}}
{{- define "customer-accounts.tlsEnv" -}}
{{- with .Values.tls }}
{{- if .secretName }}
- name: CUSTOMER_ACCOUNTS_TLS_CERT
  value: /etc/customer-accounts/tls/{{ .certKey }}
- name: CUSTOMER_ACCOUNTS_TLS_KEY
  value: /etc/customer-accounts/tls/{{ .keyKey }}
{{- end }}
{{- if .clientCA.secretName }}
- name: CUSTOMER_ACCOUNTS_TLS_CLIENT_CA
  value: /etc/customer-accounts/client-ca/{{ .clientCA.key }}
{{- end }}
{{- if .probeClient.secretName }}
- name: CUSTOMER_ACCOUNTS_CLIENT_CERT
  value: /etc/customer-accounts/probe-client/{{ .probeClient.certKey }}
- name: CUSTOMER_ACCOUNTS_CLIENT_KEY
  value: /etc/customer-accounts/probe-client/{{ .probeClient.keyKey }}
{{- end }}
{{- end }}
{{- end }}

{{- define "customer-accounts.otlpEnv" -}}
{{- with .Values.otlp }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ .protocol }}
{{- with .serviceName }}
- name: OTEL_SERVICE_NAME
  value: {{ . | quote }}
{{- end }}
{{- with .resourceAttributes }}
{{- $pairs := list }}
{{- range $name, $value := . }}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) }}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $pairs | quote }}
{{- end }}
{{- if .headers.secretName }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ .headers.secretName | quote }}
      key: {{ .headers.key | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
