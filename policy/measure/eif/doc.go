// Package eif measures AWS Nitro enclave image files: it computes the PCR values
// that the Nitro Security Module of an enclave launched from the file will report.
//
//	PCR0  kernel, command line and every ramdisk, in the order of the file
//	PCR1  kernel, command line and the first ramdisk: what boots
//	PCR2  every other ramdisk: the application
//	PCR8  the certificate that signed the image, where one did
//
// Each is one extension of an empty register, SHA-384(48 zero bytes ‖
// SHA-384(data)), so the file is read once, from front to back, whatever its
// size. PCR3 and PCR4 come from the parent instance and are in no file.
//
// A file that is damaged is refused, and so is one whose signature is not over its
// own PCR0: its PCR8 would never be seen.
package eif
