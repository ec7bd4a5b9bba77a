{{/* The gateway's configuration: `config` of the values, and over it what the chart has to know. */}}
{{- define "trunkline.config" -}}
{{- $v := .Values -}}
{{- $listener := dict "address" (printf "%s:8080" $v.gateway.bindAddress) "max_calls" $v.gateway.maxCalls -}}
{{- with $v.gateway.publicUrl }}{{ $_ := set $listener "public_url" . }}{{ end -}}
{{- if $v.gateway.tlsSecret -}}
{{- $_ := set $listener "tls" (dict "certificate_file" "/run/tls/trunkline/tls.crt" "key_file" "/run/tls/trunkline/tls.key") -}}
{{- end -}}
{{- if $v.audiosocket.enabled -}}
{{- $_ := set $listener "audiosocket" (dict "address" (printf "%s:9092" $v.gateway.bindAddress)) -}}
{{- end -}}
{{- $admin := dict "address" (printf "%s:9100" $v.gateway.bindAddress) -}}
{{- with $v.secret.adminTokenKey -}}
{{- $_ := set $admin "token_file" (include "trunkline.secretFile" .) -}}
{{- end -}}
{{- with $v.secret.metricsTokenKey -}}
{{- $_ := set $admin "read_token_file" (include "trunkline.secretFile" .) -}}
{{- end -}}
{{- with $v.adminTls -}}
{{- if .secret -}}
{{- $tls := dict "certificate_file" "/run/tls/admin/tls.crt" "key_file" "/run/tls/admin/tls.key" -}}
{{- if .clientCaKey -}}
{{- $_ := set $tls "client_ca_file" (printf "/run/tls/admin/%s" .clientCaKey) -}}
{{- $_ := set $tls "client_auth" "optional" -}}
{{- end -}}
{{- $_ := set $admin "tls" $tls -}}
{{- end -}}
{{- end -}}
{{- if not (include "trunkline.guarded" .) -}}
{{- $_ := set $admin "public" true -}}
{{- end -}}
{{- $chart := dict "listener" $listener "admin" $admin
    "drain" (dict "grace" (printf "%ds" (int $v.gateway.drainSeconds)))
    "log" (dict "filter" $v.gateway.logFilter "format" "json") -}}
{{- if not (dig "auth" "mode" "" $v.config) -}}
{{- $_ := set $chart "auth" (dict "mode" "keys") -}}
{{- end -}}
{{- if $v.secret.signingKey -}}
{{- $auth := default dict $chart.auth -}}
{{- $_ := set $auth "signing" (dict "secret_file" (include "trunkline.secretFile" $v.secret.signingKey)) -}}
{{- $_ := set $chart "auth" $auth -}}
{{- end -}}
{{- $webhook := dict -}}
{{- if $v.records.spoolSizeLimit -}}
{{- $_ := set $webhook "spool" (dict "directory" "/var/spool/trunkline/records") -}}
{{- end -}}
{{- if $v.records.webhookSecretKey -}}
{{- $_ := set $webhook "secret_file" (include "trunkline.secretFile" $v.records.webhookSecretKey) -}}
{{- end -}}
{{- if $webhook -}}
{{- $_ := set $chart "records" (dict "webhook" $webhook) -}}
{{- end -}}
{{- $redis := dict -}}
{{- if $v.redis.urlKey -}}
{{- $_ := set $redis "url_file" (include "trunkline.secretFile" $v.redis.urlKey) -}}
{{- else if $v.redis.url -}}
{{- $_ := set $redis "url" $v.redis.url -}}
{{- else if $v.redis.bundled.enabled -}}
{{- $_ := set $redis "url" (printf "redis://%s:6379/0" (include "trunkline.redis" .)) -}}
{{- end -}}
{{- if $redis -}}
{{- $_ := set $chart "quota" (dict "redis" (mergeOverwrite (deepCopy $v.redis.settings) $redis)) -}}
{{- end -}}
{{- $config := mergeOverwrite (deepCopy $v.config) $chart -}}
# Made by the chart; see deploy/trunkline.toml for what the fields mean.
{{ include "trunkline.tomlTable" (dict "table" $config "path" list) }}
{{- end -}}

{{/* Helm's own toToml writes every number of the values as a float, which the gateway does not take for counts. */}}
{{- define "trunkline.tomlTable" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "trunkline.tomlKey" $key }} = {{ include "trunkline.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $here := append $path (include "trunkline.tomlKey" $key) }}

[{{ join "." $here }}]
{{- include "trunkline.tomlTable" (dict "table" $value "path" $here) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{- define "trunkline.tomlValue" -}}
{{- if kindIs "map" . -}}
{{- $fields := list -}}
{{- range $key, $value := . -}}
{{- $fields = append $fields (printf "%s = %s" (include "trunkline.tomlKey" $key) (include "trunkline.tomlValue" $value)) -}}
{{- end -}}
{ {{ join ", " $fields }} }
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "trunkline.tomlValue" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ printf "%.0f" . }}{{ else }}{{ printf "%v" . }}{{ end -}}
{{- else if kindIs "string" . -}}
{{ toJson . }}
{{- else -}}
{{ printf "%v" . }}
{{- end -}}
{{- end -}}
