{{/* What the pods of the chart have in common. */}}

{{- define "customer-accounts.podSpec" -}}
automountServiceAccountToken: false
{{- /* Otherwise a service named customer-accounts becomes variables such as CUSTOMER_ACCOUNTS_PORT, which look like
options. */}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with .Values.securityContext }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "customer-accounts.container" -}}
image: {{ include "customer-accounts.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Whole folders are mounted, never single files (subPath): Kubernetes does not update those. */}}
{{- define "customer-accounts.tlsVolumes" -}}
{{- with .Values.tls }}
{{- range $name, $secret := dict "tls" .secretName "client-ca" .clientCA.secretName "probe-client" .probeClient.secretName }}
{{- if $secret }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret | quote }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "customer-accounts.tlsMounts" -}}
{{- with .Values.tls }}
{{- range $name, $secret := dict "tls" .secretName "client-ca" .clientCA.secretName "probe-client" .probeClient.secretName }}
{{- if $secret }}
- name: {{ $name }}
  mountPath: /etc/customer-accounts/{{ $name }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the replicas and the jobs mount: the authorities of issuers, and extraVolumes. */}}
{{- define "customer-accounts.commonMounts" -}}
{{- if .Values.issuerCA.configMapName }}
- name: issuer-ca
  mountPath: /etc/customer-accounts/issuer-ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "customer-accounts.commonVolumes" -}}
{{- with .Values.issuerCA.configMapName }}
- name: issuer-ca
  configMap:
    name: {{ . | quote }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The spec of a job that runs a command against the database and needs nothing that the chart makes.
Takes (dict "root" $ "command" "migrate" "values" .Values.migration "secretName" … "key" …).
*/}}
{{- define "customer-accounts.jobSpec" -}}
backoffLimit: {{ .values.backoffLimit | int64 }}
activeDeadlineSeconds: {{ .values.activeDeadlineSeconds | int64 }}
{{- /* Helm does not remove hooks with their release. A day is enough to read the log of a job. */}}
ttlSecondsAfterFinished: 86400
template:
  metadata:
    labels:
      {{- include "customer-accounts.podLabels" (dict "root" .root "component" .command "extra" .values.podLabels) | nindent 6 }}
    {{- with .values.podAnnotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    restartPolicy: Never
    {{- include "customer-accounts.podSpec" .root | nindent 4 }}
    {{- /* An account that the chart makes does not exist yet when the migration runs. */}}
    {{- if and .root.Values.serviceAccount.name (not .root.Values.serviceAccount.create) }}
    serviceAccountName: {{ .root.Values.serviceAccount.name | quote }}
    {{- end }}
    containers:
      - name: {{ .command }}
        {{- include "customer-accounts.container" .root | nindent 8 }}
        args: [{{ .command }}]
        env:
          {{- include "customer-accounts.env" . | trim | nindent 10 }}
          {{- with .root.Values.extraEnv }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        {{- with include "customer-accounts.commonMounts" .root | trim }}
        volumeMounts:
          {{- . | nindent 10 }}
        {{- end }}
    {{- with include "customer-accounts.commonVolumes" .root | trim }}
    volumes:
      {{- . | nindent 6 }}
    {{- end }}
{{- end }}
