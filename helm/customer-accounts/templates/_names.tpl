{{/* Names and labels. */}}

{{- define "customer-accounts.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 43 | trimAll "-" }}
{{- end }}

{{/* The first part of all names. 43 characters leave room for suffixes: the name of a CronJob has at most 52. */}}
{{- define "customer-accounts.fullname" -}}
{{- $name := include "customer-accounts.name" . -}}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $default .Values.fullnameOverride | trunc 43 | trimAll "-" }}
{{- end }}

{{/*
Labels by which services and policies find pods. They never change, because those of a deployment are immutable.
Takes (dict "root" $ "component" "server").
*/}}
{{- define "customer-accounts.selector" -}}
app.kubernetes.io/name: {{ include "customer-accounts.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of a pod. Takes those of the selector, and "extra" labels, which replace none of the chart's. */}}
{{- define "customer-accounts.podLabels" -}}
{{- $own := include "customer-accounts.selector" . | fromYaml -}}
{{- toYaml (merge $own (.extra | default dict) (.root.Values.commonLabels | default dict)) }}
{{- end }}

{{/* Labels of an object. Takes what podLabels takes. */}}
{{- define "customer-accounts.labels" -}}
{{- $own := include "customer-accounts.podLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_")) -}}
{{- toYaml $own }}
{{- end }}

{{/*
The metadata of an object. Takes (dict "root" $ "component" … "suffix" … "annotations" …); the last two are optional.
*/}}
{{- define "customer-accounts.metadata" -}}
name: "{{ include "customer-accounts.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}"
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "customer-accounts.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "customer-accounts.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}
