// A filter as the Go compiler makes it: a reactor with a runtime of its own, which asks much of WASI at its start.
package main

import "unsafe"

//go:wasmimport env proxy_log
func proxyLog(level int32, data unsafe.Pointer, size int32) int32

//go:wasmexport proxy_abi_version_0_2_100
func abiVersion() {}

// What the host was given must not be collected.
var given [][]byte

//go:wasmexport proxy_on_memory_allocate
func allocate(size int32) unsafe.Pointer {
	bytes := make([]byte, size)
	given = append(given, bytes)
	return unsafe.Pointer(unsafe.SliceData(bytes))
}

//go:wasmexport proxy_on_request_headers
func requestHeaders(_, _, _ int32) int32 {
	text := []byte("in the log")
	proxyLog(2, unsafe.Pointer(unsafe.SliceData(text)), int32(len(text)))
	println("on standard error")
	return 0
}

func main() {}
