// SPDX-License-Identifier: Apache-2.0
// PID 1 of a guest whose agent speaks a version that no hearthd knows: connects as the real one
// does, sends a Hello that is good but for its versions, 99 to 99, and waits.
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
  // A frame: its length, then Frame{hello: {min_version: 99, max_version: 99, initial_credit_bytes:
  // 262144}} in protobuf's encoding.
  static const unsigned char hello[] = {10, 0,    0,  0,    0x0a, 8,    0x08,
                                        99, 0x10, 99, 0x28, 0x80, 0x80, 0x10};
  struct sockaddr_vm address = {
      .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 1024};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr*)&address, sizeof address) != 0) {
    // On QEMU it is the first port of virtio-serial, which the host tells of soon.
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    while ((fd = open("/dev/vport0p1", O_RDWR)) < 0) usleep(1000);
  }
  if (write(fd, hello, sizeof hello) != sizeof hello) return 1;
  for (;;) pause();
}
