{{- define "aiquota.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{- define "aiquota.fullname" -}}
{{- $name := include "aiquota.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "aiquota.selector" -}}
app.kubernetes.io/name: {{ include "aiquota.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "aiquota.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "aiquota.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- $metrics := .Values.metrics }}
{{- $others := dict "podLabels" .Values.podLabels "metrics.serviceMonitor.labels" $metrics.serviceMonitor.labels "metrics.rules.labels" $metrics.rules.labels "metrics.dashboard.labels" $metrics.dashboard.labels }}
{{- range $name, $_ := .Values.commonLabels }}
{{- range $path, $labels := $others }}
{{- if hasKey ($labels | default dict) $name }}
{{- fail (printf "commonLabels: %s is in %s too: take it out of one of the two" $name $path) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "aiquota.serviceAccount" -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.name: which one? With serviceAccount.create=false none is made" -}}
{{- end -}}
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
{{- if and (not $upstream) (eq $modules.limits.dialect "v1") -}}
{{- fail "modules.limits.dialect: v1 is a generation of Higress' own module: leave it out, or set flavor=upstream" -}}
{{- end -}}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicas) 1) -}}
{{- fail "leaderElection.enabled: without an election there is one replica: set replicas=1" -}}
{{- end -}}
{{- $url := include "aiquota.moduleUrl" (list . "ai-quota" $modules.quota) -}}
{{- $sha256 := include "aiquota.moduleSha256" (list . "ai-quota" $modules.quota) -}}
{{- include "aiquota.pinned" (list . "modules.quota.url" $url $sha256) -}}
- run
- {{ printf "--gateway-namespace=%v" .Values.gateway.namespace | quote }}
{{- range .Values.trustedNamespaces }}
- {{ printf "--trusted-namespace=%v" . | quote }}
{{- end }}
- {{ printf "--namespace-share=%v" .Values.namespaceShare | quote }}
- {{ printf "--flavor=%v" .Values.flavor | quote }}
- {{ printf "--module-url=%v" $url | quote }}
{{- with $sha256 }}
- {{ printf "--module-sha256=%v" . | quote }}
{{- end }}
- {{ printf "--priority=%v" $modules.quota.priority | quote }}
{{- if $modules.limits.enabled }}
{{- $url := include "aiquota.moduleUrl" (list . "ai-token-ratelimit" $modules.limits) }}
{{- $sha256 := include "aiquota.moduleSha256" (list . "ai-token-ratelimit" $modules.limits) }}
{{- include "aiquota.pinned" (list . "modules.limits.url" $url $sha256) }}
- {{ printf "--limit-module-url=%v" $url | quote }}
{{- with $sha256 }}
- {{ printf "--limit-module-sha256=%v" . | quote }}
{{- end }}
- {{ printf "--limit-priority=%v" $modules.limits.priority | quote }}
{{- end }}
- {{ printf "--limit-dialect=%v" $modules.limits.dialect | quote }}
- {{ printf "--guard=%v" (ternary "on" "off" $modules.guard.enabled) | quote }}
{{- if and $modules.guard.enabled (or $upstream $modules.guard.url) }}
{{- $url := include "aiquota.moduleUrl" (list . "ai-quota" $modules.guard) }}
{{- $sha256 := include "aiquota.moduleSha256" (list . "ai-quota" $modules.guard) }}
{{- include "aiquota.pinned" (list . "modules.guard.url" $url $sha256) }}
- {{ printf "--guard-module-url=%v" $url | quote }}
{{- with $sha256 }}
- {{ printf "--guard-module-sha256=%v" . | quote }}
{{- end }}
{{- else if $modules.guard.sha256 }}
{{- fail "modules.guard.sha256: of which module? The guard is that of modules.quota unless modules.guard.url names another" }}
{{- end }}
{{- if $modules.allowUnpinned }}
- --allow-unpinned-modules
{{- end }}
- {{ printf "--image-pull-policy=%v" $modules.imagePullPolicy | quote }}
{{- with $modules.imagePullSecret }}
- {{ printf "--image-pull-secret=%v" . | quote }}
{{- end }}
- {{ printf "--fail-strategy=%v" $modules.failStrategy | quote }}
- {{ printf "--phase=%v" $modules.phase | quote }}
{{- range .Values.authPlugins }}
- {{ printf "--auth-plugin=%v" . | quote }}
{{- end }}
- {{ printf "--leader-election=%v" (ternary "on" "off" .Values.leaderElection.enabled) | quote }}
- {{ printf "--lease-duration=%v" .Values.leaderElection.leaseDuration | quote }}
- {{ printf "--drain=%v" .Values.drain | quote }}
- {{ printf "--listen=[::]:%v" .Values.port | quote }}
- {{ printf "--consumer-metrics=%v" .Values.metrics.consumers | quote }}
- {{ printf "--log-format=%v" .Values.log.format | quote }}
- {{ printf "--log=%v" .Values.log.filter | quote }}
{{- end }}
