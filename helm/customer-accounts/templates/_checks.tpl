{{/* Values that do not fit together, and numbers computed from several values. */}}

{{/* A duration of the service (250ms, 10s, 5m, 1h) in milliseconds. The schema has checked its form. */}}
{{- define "customer-accounts.milliseconds" -}}
{{- $digits := regexFind "^[0-9]+" . -}}
{{- mul (int64 $digits) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (trimPrefix $digits .)) -}}
{{- end }}

{{/* A quantity of Kubernetes (100m, 0.5, 64Mi) as a number. The schema has checked its form. */}}
{{- define "customer-accounts.quantity" -}}
{{- if kindIs "string" . -}}
{{- $digits := regexFind "^[0-9.]+" . -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf $digits (get $units (trimPrefix $digits .)) -}}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* How many texts a value of config has: a list, or one text with commas between them. */}}
{{- define "customer-accounts.count" -}}
{{- len (without (splitList "," (include "customer-accounts.text" (. | default ""))) "") -}}
{{- end }}

{{/* Whether kubelet asks for health by the program in the container. */}}
{{- define "customer-accounts.probesByExec" -}}
{{- $auto := or .Values.tls.secretName (get .Values.config "mesh-header") -}}
{{- if or (eq .Values.probes.kind "exec") (and (eq .Values.probes.kind "auto") $auto) }}yes{{ end }}
{{- end }}

{{/*
Seconds between SIGTERM and SIGKILL. The process ends by itself at --shutdown-deadline, which includes --shutdown-delay,
and may then need 6 seconds for work that cannot be interrupted and 3 to send its last telemetry.
*/}}
{{- define "customer-accounts.gracePeriod" -}}
{{- $deadline := include "customer-accounts.milliseconds" (get .Values.config "shutdown-deadline") | int64 -}}
{{- $needed := add (div (add $deadline 999) 1000) 10 -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if and (not (kindIs "invalid" $given)) (lt (int64 $given) $needed) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d and must be at least %d: config.shutdown-deadline (%s) and 10 seconds to end, or replicas are killed with calls under way" (int64 $given) $needed (get .Values.config "shutdown-deadline")) -}}
{{- end -}}
{{- if kindIs "invalid" $given }}{{ $needed }}{{ else }}{{ int64 $given }}{{ end }}
{{- end }}

{{/* Most replicas when no upgrade is under way. */}}
{{- define "customer-accounts.replicas" -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled | int64 -}}
{{- end }}

{{/*
Most database connections: those of all replicas, one to migrate and one to prune. In an upgrade the replicas before keep
theirs until they have ended, for which a Deployment does not wait: all of them can be ending when the last new one starts.
*/}}
{{- define "customer-accounts.connections" -}}
{{- $each := add (get .Values.config "pool-size") (get .Values.config "read-lanes") -}}
{{- $jobs := add (ternary 1 0 .Values.migration.enabled) (ternary 1 0 .Values.prune.enabled) -}}
{{- add (mul 2 (include "customer-accounts.replicas" . | int64) $each) $jobs -}}
{{- end }}

{{- define "customer-accounts.checks" -}}
{{- $config := .Values.config -}}
{{- /* Helm accepts more names of releases than Kubernetes accepts names of services. */}}
{{- $name := include "customer-accounts.fullname" . -}}
{{- if not (regexMatch "^[a-z][a-z0-9-]*$" $name) -}}
{{- fail (printf "the release is named %s, and %s cannot be the name of a service, which begins with a letter and has no dots. Set fullnameOverride" .Release.Name $name) -}}
{{- end -}}
{{- $_ := required "image.repository is required: where your image of the service is" .Values.image.repository -}}
{{- $_ := required "database.secretName is required: an existing secret with the URL of the login that serves" .Values.database.secretName -}}
{{- if and .Values.migration.enabled (not .Values.migration.secretName) -}}
{{- fail "migration.secretName is required: an existing secret with the URL of the login that migrates" -}}
{{- end -}}
{{- if and .Values.prune.enabled (not (or .Values.prune.secretName .Values.migration.secretName)) -}}
{{- fail "prune.secretName is required, unless migration.secretName is set: an existing secret with the URL of the login that prunes" -}}
{{- end -}}
{{- if not (and (get $config "token-issuer") (get $config "token-audience")) -}}
{{- fail "config.token-issuer and config.token-audience are required: without an issuer of tokens the service serves on loopback addresses only" -}}
{{- end -}}
{{- $issuers := include "customer-accounts.count" (get $config "token-issuer") | int -}}
{{- $prefixes := include "customer-accounts.count" (get $config "token-actor-prefix") | int -}}
{{- if gt (sub $issuers $prefixes) 1 -}}
{{- fail (printf "config.token-issuer has %d issuers, and only %d have a prefix (config.token-actor-prefix). All but one need one, or two people could be the same caller" $issuers $prefixes) -}}
{{- end -}}
{{- $delay := include "customer-accounts.milliseconds" (get $config "shutdown-delay") | int64 -}}
{{- $call := include "customer-accounts.milliseconds" (get $config "default-deadline") | int64 -}}
{{- $deadline := include "customer-accounts.milliseconds" (get $config "shutdown-deadline") | int64 -}}
{{- if lt $deadline (add $delay $call) -}}
{{- fail (printf "config.shutdown-deadline (%s) must be at least config.shutdown-delay (%s) and config.default-deadline (%s) together, or calls are cut off when a replica ends" (get $config "shutdown-deadline") (get $config "shutdown-delay") (get $config "default-deadline")) -}}
{{- end -}}
{{- with .Values.tls -}}
{{- if and .clientCA.secretName (not .secretName) -}}
{{- fail "tls.clientCA.secretName is set, but not tls.secretName: mutual TLS needs the certificate of the service" -}}
{{- end -}}
{{- if and .probeClient.secretName (not .clientCA.secretName) -}}
{{- fail "tls.probeClient.secretName is set, but not tls.clientCA.secretName: only mutual TLS asks for a certificate" -}}
{{- end -}}
{{- end -}}
{{- if and (get $config "mesh-proxies") (not .Values.tls.clientCA.secretName) -}}
{{- fail "config.mesh-proxies is set, but not tls.clientCA.secretName: nothing would name the proxy" -}}
{{- end -}}
{{- if and (get $config "mesh-proxies") (not (get $config "mesh-header")) -}}
{{- fail "config.mesh-proxies is set, but not config.mesh-header: there is no header to trust" -}}
{{- end -}}
{{- if and (get $config "allowed-workloads") (not (or .Values.tls.clientCA.secretName (get $config "mesh-header"))) -}}
{{- fail "config.allowed-workloads needs tls.clientCA.secretName or config.mesh-header: nothing would name the calling workload" -}}
{{- end -}}
{{- if and .Values.tls.secretName (eq .Values.probes.kind "grpc") -}}
{{- fail "probes.kind grpc needs a service without TLS: kubelet speaks none. Use exec" -}}
{{- end -}}
{{- if and .Values.tls.secretName (has .Values.service.appProtocol (list "kubernetes.io/h2c" "grpc")) -}}
{{- fail (printf "service.appProtocol %s means plain text, but tls.secretName is set: use https or tls" .Values.service.appProtocol) -}}
{{- end -}}
{{- if and (not .Values.tls.secretName) (has .Values.service.appProtocol (list "https" "tls")) -}}
{{- fail (printf "service.appProtocol %s means TLS, but tls.secretName is not set: use kubernetes.io/h2c or grpc" .Values.service.appProtocol) -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) -}}
{{- fail "grpcRoute.parentRefs is required: the gateways of the route" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled is set, but not metrics.enabled: there would be no metrics" -}}
{{- end -}}
{{- $resources := .Values.resources | default dict -}}
{{- range $name, $limit := $resources.limits -}}
{{- $request := dig "requests" $name 0 $resources -}}
{{- if gt (include "customer-accounts.quantity" $request | float64) (include "customer-accounts.quantity" $limit | float64) -}}
{{- fail (printf "resources.requests.%s (%v) is more than resources.limits.%s (%v): Kubernetes would make no pod" $name $request $name $limit) -}}
{{- end -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .enabled (gt (int64 .minReplicas) (int64 .maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is more than autoscaling.maxReplicas (%d)" (int64 .minReplicas) (int64 .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (dig "requests" "cpu" "" (.Values.resources | default dict))) -}}
{{- fail "autoscaling needs resources.requests.cpu: it is a percentage of that" -}}
{{- end -}}
{{- $set := list "DATABASE_URL" "SSL_CERT_FILE" "OTEL_EXPORTER_OTLP_ENDPOINT" "OTEL_EXPORTER_OTLP_PROTOCOL" "OTEL_EXPORTER_OTLP_HEADERS" "OTEL_SERVICE_NAME" "OTEL_RESOURCE_ATTRIBUTES" -}}
{{- $names := list -}}
{{- range .Values.extraEnv -}}
{{- if or (hasPrefix "CUSTOMER_ACCOUNTS_" .name) (has .name $set) -}}
{{- fail (printf "extraEnv: %s has a value of its own in this chart, or under config" .name) -}}
{{- end -}}
{{- if has .name $names -}}
{{- fail (printf "extraEnv: %s is there twice" .name) -}}
{{- end -}}
{{- if and (hasKey . "value") (hasKey . "valueFrom") -}}
{{- fail (printf "extraEnv: %s has both value and valueFrom" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $volumes := list -}}
{{- range .Values.extraVolumes -}}
{{- if has .name (list "tls" "client-ca" "probe-client" "issuer-ca") -}}
{{- fail (printf "extraVolumes: %s is a volume of this chart. Choose another name" .name) -}}
{{- end -}}
{{- if has .name $volumes -}}
{{- fail (printf "extraVolumes: %s is there twice" .name) -}}
{{- end -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- $paths := list -}}
{{- range .Values.extraVolumeMounts -}}
{{- $path := clean .mountPath -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "extraVolumeMounts: %s is not one of extraVolumes" .name) -}}
{{- end -}}
{{- if regexMatch "^/etc/customer-accounts(/(tls|client-ca|probe-client|issuer-ca)(/.*)?)?$" $path -}}
{{- fail (printf "extraVolumeMounts: %s is for the files of this chart. Choose another mountPath" $path) -}}
{{- end -}}
{{- if has $path $paths -}}
{{- fail (printf "extraVolumeMounts: something is mounted at %s twice" $path) -}}
{{- end -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- end }}
