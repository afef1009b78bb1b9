{{- define "aiquota.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "aiquota.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "aiquota.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "aiquota.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "aiquota.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "aiquota.fullname" .) -}}
{{- end }}

{{- define "aiquota.image" -}}
{{- $repository := .Values.image.repository | default (printf "%s/aiquota" .Values.registry) -}}
{{- $released := (.Files.Get "digests.yaml" | fromYaml).aiquota -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else if and $released (not .Values.image.repository) (not .Values.image.tag) -}}
{{- printf "%s:%s@sha256:%s" $repository .Chart.AppVersion $released -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* The url of a module of this project: (list . <module> <value>) */}}
{{- define "aiquota.moduleUrl" -}}
{{- $root := index . 0 -}}
{{- (index . 2).url | default (printf "oci://%s/%s:%s" $root.Values.registry (index . 1) $root.Chart.AppVersion) -}}
{{- end }}

{{/* The checksum of a module of this project, with the same arguments: the released one's, unless another url is given. */}}
{{- define "aiquota.moduleSha256" -}}
{{- $value := index . 2 -}}
{{- $released := (index . 0).Files.Get "digests.yaml" | fromYaml -}}
{{- $value.sha256 | default ($value.url | empty | ternary (index $released (index . 1) | default "") "") -}}
{{- end }}

{{/*
What `aiquota run` would refuse when its pod starts is refused before anything is installed: a module that may be another
one tomorrow. (list . <path of the value> <url> <sha256>). A test compares the verdicts of both.
*/}}
{{- define "aiquota.pinned" -}}
{{- $root := index . 0 -}}
{{- $path := index . 1 -}}
{{- $url := index . 2 -}}
{{- if not $root.Values.modules.allowUnpinned -}}
{{- $latest := or (regexMatch "^oci://[^@]*:latest$" $url) (regexMatch "^(https?|file)://[^/]*/([^?#]*/)?latest(/|[?#]|$)" $url) -}}
{{- $image := regexMatch "^oci://(.*@sha256:[0-9a-fA-F]{64}|[^@]*:[^/@]+)$" $url -}}
{{- $file := regexMatch "^(https?|file)://[^/?#]*/[^?#]*[0-9]\\.[0-9]" $url -}}
{{- if $latest -}}
{{- fail (printf "%s: %s: `latest` names another module tomorrow: name a version, or a digest @sha256:..., or set modules.allowUnpinned" $path $url) -}}
{{- else if not (or $image $file (index . 3)) -}}
{{- fail (printf "%s: %s names no version, and the gateway may run another module tomorrow: name a version, a digest @sha256:..., or give its sha256, or set modules.allowUnpinned" $path $url) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The arguments of the controller, one per line. */}}
{{- define "aiquota.arguments" -}}
{{- $modules := .Values.modules -}}
{{- $upstream := eq .Values.flavor "upstream" -}}
{{- if and $upstream (not $modules.quota.url) -}}
{{- fail "modules.quota.url: with flavor upstream say where Higress' own ai-quota is" -}}
{{- end -}}
{{- if and $upstream $modules.limits.enabled (not $modules.limits.url) -}}
{{- fail "modules.limits.url: with flavor upstream say where Higress' own ai-token-ratelimit is, or set modules.limits.enabled=false" -}}
{{- end -}}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicas) 1) -}}
{{- fail "leaderElection.enabled: without an election there is one replica: set replicas=1" -}}
{{- end -}}
{{- $url := include "aiquota.moduleUrl" (list . "ai-quota" $modules.quota) -}}
{{- $sha256 := include "aiquota.moduleSha256" (list . "ai-quota" $modules.quota) -}}
{{- include "aiquota.pinned" (list . "modules.quota.url" $url $sha256) -}}
- run
- --gateway-namespace={{ .Values.gateway.namespace }}
{{- range .Values.trustedNamespaces }}
- --trusted-namespace={{ . }}
{{- end }}
- --namespace-share={{ .Values.namespaceShare }}
- --flavor={{ .Values.flavor }}
- --module-url={{ $url }}
{{- with $sha256 }}
- --module-sha256={{ . }}
{{- end }}
- --priority={{ $modules.quota.priority }}
{{- if $modules.limits.enabled }}
{{- $url := include "aiquota.moduleUrl" (list . "ai-token-ratelimit" $modules.limits) }}
{{- $sha256 := include "aiquota.moduleSha256" (list . "ai-token-ratelimit" $modules.limits) }}
{{- include "aiquota.pinned" (list . "modules.limits.url" $url $sha256) }}
- --limit-module-url={{ $url }}
{{- with $sha256 }}
- --limit-module-sha256={{ . }}
{{- end }}
- --limit-priority={{ $modules.limits.priority }}
{{- end }}
- --guard={{ ternary "on" "off" $modules.guard.enabled }}
{{- if and $modules.guard.enabled (or $upstream $modules.guard.url) }}
{{- $url := include "aiquota.moduleUrl" (list . "ai-quota" $modules.guard) }}
{{- $sha256 := include "aiquota.moduleSha256" (list . "ai-quota" $modules.guard) }}
{{- include "aiquota.pinned" (list . "modules.guard.url" $url $sha256) }}
- --guard-module-url={{ $url }}
{{- with $sha256 }}
- --guard-module-sha256={{ . }}
{{- end }}
{{- else if $modules.guard.sha256 }}
{{- fail "modules.guard.sha256: of which module? The guard is that of modules.quota unless modules.guard.url names another" }}
{{- end }}
{{- if $modules.allowUnpinned }}
- --allow-unpinned-modules
{{- end }}
- --image-pull-policy={{ $modules.imagePullPolicy }}
{{- with $modules.imagePullSecret }}
- --image-pull-secret={{ . }}
{{- end }}
- --fail-strategy={{ $modules.failStrategy }}
- --phase={{ $modules.phase }}
{{- range .Values.authPlugins }}
- --auth-plugin={{ . }}
{{- end }}
- --leader-election={{ ternary "on" "off" .Values.leaderElection.enabled }}
- --lease-duration={{ .Values.leaderElection.leaseDuration }}
- --drain={{ .Values.drain }}
- --listen=[::]:{{ .Values.port }}
- --consumer-metrics={{ .Values.metrics.consumers }}
- --log-format={{ .Values.log.format }}
- --log={{ .Values.log.filter }}
{{- end }}
