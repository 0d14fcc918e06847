{{/* Parts of the deployment. */}}

{{- define "customer-accounts.serverEnv" -}}
- name: CUSTOMER_ACCOUNTS_LISTEN
  value: "{{ .Values.listenHost }}:50051"
{{- if .Values.metrics.enabled }}
- name: CUSTOMER_ACCOUNTS_METRICS_LISTEN
  value: "{{ .Values.listenHost }}:9464"
{{- end }}
{{- /* The login that serves may not migrate. The job does. */}}
- name: CUSTOMER_ACCOUNTS_MIGRATE
  value: "false"
{{- include "customer-accounts.env" (dict "root" . "secretName" .Values.database.secretName "key" .Values.database.key) }}
{{- include "customer-accounts.tlsEnv" . }}
{{- include "customer-accounts.otlpEnv" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "customer-accounts.serverMounts" -}}
{{- include "customer-accounts.tlsMounts" . }}
{{- include "customer-accounts.commonMounts" . }}
{{- end }}

{{- define "customer-accounts.serverVolumes" -}}
{{- include "customer-accounts.tlsVolumes" . }}
{{- include "customer-accounts.commonVolumes" . }}
{{- end }}

{{- define "customer-accounts.spread" -}}
{{- with .Values.topologySpread }}
{{- range $key, $rule := dict "topology.kubernetes.io/zone" .zones "kubernetes.io/hostname" .nodes }}
{{- if ne $rule "None" }}
- topologyKey: {{ $key }}
  maxSkew: 1
  whenUnsatisfiable: {{ $rule }}
  labelSelector:
    matchLabels:
      {{- include "customer-accounts.selector" (dict "root" $ "component" "server") | nindent 6 }}
  {{- /* Replicas of the version before do not count, so that the new ones are spread among themselves. */}}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "customer-accounts.probes" -}}
{{- if include "customer-accounts.probesByExec" . -}}
{{- /* healthcheck takes up to 6 seconds. It trusts only the certificate in the file, so for up to 10 seconds after a change
of the file, until the service has read it too, it fails: three failures in a row count. */ -}}
startupProbe:
  exec:
    command: [/customer-accounts, healthcheck, liveness]
  periodSeconds: 3
  timeoutSeconds: 7
  failureThreshold: 40
readinessProbe:
  exec:
    command: [/customer-accounts, healthcheck]
  periodSeconds: 10
  timeoutSeconds: 7
  failureThreshold: 3
livenessProbe:
  exec:
    command: [/customer-accounts, healthcheck, liveness]
  periodSeconds: 20
  timeoutSeconds: 7
  failureThreshold: 6
{{- else -}}
startupProbe:
  grpc:
    port: 50051
    service: liveness
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
readinessProbe:
  grpc:
    port: 50051
    service: readiness
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  grpc:
    port: 50051
    service: liveness
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}
{{- end }}
