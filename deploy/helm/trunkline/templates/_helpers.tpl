{{- define "trunkline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "trunkline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "trunkline.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.selector" -}}
app.kubernetes.io/name: {{ include "trunkline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "trunkline.redisSelector" -}}
app.kubernetes.io/name: {{ include "trunkline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: redis
{{- end -}}

{{- define "trunkline.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: trunkline
{{- end -}}

{{- define "trunkline.labels" -}}
{{ include "trunkline.selector" . }}
{{ include "trunkline.commonLabels" . }}
{{- end -}}

{{- define "trunkline.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "trunkline.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret whose files are mounted; empty if there is none. */}}
{{- define "trunkline.secret" -}}
{{- if .Values.secret.existingName -}}
{{ .Values.secret.existingName }}
{{- else if .Values.secret.values -}}
{{ include "trunkline.fullname" . }}
{{- end -}}
{{- end -}}

{{- define "trunkline.secretFile" -}}
/run/secrets/trunkline/{{ . }}
{{- end -}}

{{/* What the admin port asks for; empty if for nothing. */}}
{{- define "trunkline.guarded" -}}
{{ or .Values.secret.adminTokenKey .Values.secret.metricsTokenKey .Values.adminTls.clientCaKey }}
{{- end -}}

{{/* What the admin port speaks. */}}
{{- define "trunkline.adminScheme" -}}
{{ ternary "https" "http" (ne .Values.adminTls.secret "") }}
{{- end -}}

{{/* One more name than the values' own, so that "Chart" and "Redis" do not collide. */}}
{{- define "trunkline.redis" -}}
{{ include "trunkline.fullname" . }}-redis
{{- end -}}

{{/* What must hold between values, which a schema cannot say. */}}
{{- define "trunkline.check" -}}
{{- $v := .Values -}}
{{- $needed := add (int $v.gateway.preStopSeconds) (int $v.gateway.drainSeconds) 20 -}}
{{- if lt (int $v.terminationGracePeriodSeconds) (int $needed) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, so that calls would be cut: gateway.preStopSeconds (%d) + gateway.drainSeconds (%d) + 20 for closing need %d" (int $v.terminationGracePeriodSeconds) (int $v.gateway.preStopSeconds) (int $v.gateway.drainSeconds) (int $needed)) -}}
{{- end -}}
{{- if not $v.config.deployments -}}
{{- fail "config.deployments is empty: name at least one Realtime deployment" -}}
{{- end -}}
{{- if gt (len (compact (list $v.redis.url $v.redis.urlKey (ternary "bundled" "" $v.redis.bundled.enabled)))) 1 -}}
{{- fail "give only one of redis.url, redis.urlKey and redis.bundled.enabled" -}}
{{- end -}}
{{- if and $v.secret.existingName $v.secret.values -}}
{{- fail "give only one of secret.existingName and secret.values" -}}
{{- end -}}
{{- range $field := list "signingKey" "adminTokenKey" "metricsTokenKey" -}}
{{- $key := get $v.secret $field -}}
{{- if and $key (not $v.secret.existingName) (not (hasKey $v.secret.values $key)) -}}
{{- fail (printf "secret.%s is %q, which secret.values has not" $field $key) -}}
{{- end -}}
{{- end -}}
{{- if and $v.redis.urlKey (not $v.secret.existingName) (not (hasKey $v.secret.values $v.redis.urlKey)) -}}
{{- fail (printf "redis.urlKey is %q, which secret.values has not" $v.redis.urlKey) -}}
{{- end -}}
{{- with $v.records.webhookSecretKey -}}
{{- if and (not $v.secret.existingName) (not (hasKey $v.secret.values .)) -}}
{{- fail (printf "records.webhookSecretKey is %q, which secret.values has not" .) -}}
{{- end -}}
{{- end -}}
{{- if and (or $v.records.spoolSizeLimit $v.records.webhookSecretKey) (not (dig "records" "webhook" "url" "" $v.config)) -}}
{{- fail "records.spoolSizeLimit and records.webhookSecretKey are for a webhook: set config.records.webhook.url" -}}
{{- end -}}
{{- if and $v.azureWorkloadIdentity.enabled (not $v.azureWorkloadIdentity.clientId) $v.serviceAccount.create -}}
{{- fail "azureWorkloadIdentity.clientId is empty" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.callsPerPod) (int $v.gateway.maxCalls)) -}}
{{- fail (printf "autoscaling.callsPerPod is %d, more than gateway.maxCalls (%d): there would never be one more pod" (int $v.autoscaling.callsPerPod) (int $v.gateway.maxCalls)) -}}
{{- end -}}
{{- if and $v.monitoring.podMonitor.enabled $v.monitoring.serviceMonitor.enabled -}}
{{- fail "with both monitoring.podMonitor and monitoring.serviceMonitor every call would be counted twice" -}}
{{- end -}}
{{- with $v.secret.adminTokenKey -}}
{{- if eq . $v.secret.metricsTokenKey -}}
{{- fail "secret.adminTokenKey and secret.metricsTokenKey are the same, so that whoever scrapes could also end calls" -}}
{{- end -}}
{{- end -}}
{{- if and $v.adminTls.clientCaKey (not $v.adminTls.secret) -}}
{{- fail "adminTls.clientCaKey is a file of adminTls.secret, which is empty" -}}
{{- end -}}
{{- if and $v.monitoring.tls.clientSecret (not $v.adminTls.clientCaKey) -}}
{{- fail "monitoring.tls.clientSecret is for client certificates, which adminTls.clientCaKey has the gateway take" -}}
{{- end -}}
{{- if and $v.ingress.enabled (eq $v.ingress.controller "agic") (ne (eq $v.gateway.tlsSecret "") (eq $v.adminTls.secret "")) -}}
{{- fail "Application Gateway probes the admin port by what callers' port speaks: give both or none of gateway.tlsSecret and adminTls.secret" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- fail "ingress.hosts is empty" -}}
{{- end -}}
{{- if and $v.gatewayApi.enabled (not $v.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.parentRefs is empty" -}}
{{- end -}}
{{- end -}}
