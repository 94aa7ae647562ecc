/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * msharefs: shared memory whose page tables are also shared.
 *
 * A region is a regular file on a mounted msharefs (by convention on
 * /sys/fs/mshare).  It is made, sized, mapped and removed with the ordinary
 * calls: open(O_CREAT) or open(O_TMPFILE) + linkat, ftruncate, fallocate,
 * mmap(MAP_SHARED), unlink, chmod, chown.  The ioctls below are for what has
 * no ordinary call; each is issued on a descriptor of the region.
 *
 * mmap
 *	Address, length and offset must be multiples of MSHARE_UNIT.  The
 *	length may reach beyond the end of the file; access there is SIGBUS.
 *	Without PROT_WRITE the attachment is read-only and stays so.
 *	EINVAL: not MAP_SHARED, PROT_NONE, or not in whole units.
 *	EPERM:  PROT_EXEC, or PROT_WRITE on a sealed region.
 *	EACCES: PROT_WRITE on an O_RDONLY descriptor.
 *	EBUSY:  the process has a device with shared virtual addresses.
 *	An attachment is removed as a whole: munmap of a part is EINVAL, and
 *	so is mmap(MAP_FIXED) over a part.  mprotect is EACCES.
 *
 * size= (a mount option)
 *	All pages and page tables of all regions together take at most that
 *	much.  A page pays for its tables when it is made: 2 pages for the first
 *	in an aligned 2 MiB, 3 for the first in an aligned 1 GiB.  So memory that
 *	fallocate has reserved includes its tables.
 *
 * The structures have the same layout for 32 and 64 bit programs.
 */
#ifndef _UAPI_LINUX_MSHAREFS_H
#define _UAPI_LINUX_MSHAREFS_H

#include <linux/types.h>
#include <linux/ioctl.h>

/* f_type of statfs(2): "mshr". */
#define MSHARE_SUPER_MAGIC	0x6d736872

/* Version of this interface; struct mshare_info.abi tells the kernel's. */
#define MSHARE_ABI		1

/* The unit of sharing in bytes: what one upper-level entry (PUD) maps. */
#define MSHARE_UNIT		(1ULL << 30)

/*
 * Addresses that the kernel chooses lie in [FIRST, END).  It reserves at most
 * SHARE bytes of addresses for all regions of one user, root excepted.
 */
#define MSHARE_BASE_FIRST	0x200000000000ULL
#define MSHARE_BASE_END		0x400000000000ULL
#define MSHARE_BASE_SHARE	((MSHARE_BASE_END - MSHARE_BASE_FIRST) / 8)

/**
 * struct mshare_info - what the kernel knows about a region
 * @abi: MSHARE_ABI of the kernel module.
 * @flags: MSHARE_INFO_* bits.
 * @size: Size of the file in bytes.
 * @base: Address at which everybody should attach, or 0 if none was chosen
 *	yet.  The kernel chooses one when the file first gets a size: the first
 *	free range of that many units, that is, one that is not reserved for
 *	another region.  A base is reserved until the region is gone, whether
 *	the kernel or the owner chose it.  A region that grows later reserves
 *	its whole new range.  MSHARE_IOC_SET_BASE changes the base.  The base
 *	is only advice: mmap obeys its argument.
 * @unit_bytes: MSHARE_UNIT of this kernel.
 * @pages: Pages of memory the region holds now (4096 bytes each).
 * @table_bytes: Bytes of page-table pages that belong to the region and are
 *	shared by all attachments.  What each process pays for itself (one PUD
 *	page for 512 GiB) is not in here.  Tables exist for units that have
 *	pages, or had some while they were attached.
 * @generation: Grows with each protection change, hole punch, truncation and
 *	change of @base.
 * @filled: Leaf entries written since the region was made, in both trees.
 * @attachments: Mappings of the region, in all processes.
 * @processes: Address spaces with at least one attachment.
 * @charged_bytes: What the region holds of size=: its pages, their page tables
 *	whether made already or not, and one page for 64 protected ranges.
 * @huge_pages: Blocks (2 MiB of the file) that are one page of 2 MiB; their
 *	memory is in @pages.
 * @huge_fallbacks: Blocks that should have become one page of 2 MiB, and got
 *	pages of 4096 bytes for lack of such memory, or of size=.
 * @reserved: 0.
 */
struct mshare_info {
	__u32 abi;
	__u32 flags;
	__u64 size;
	__u64 base;
	__u64 unit_bytes;
	__u64 pages;
	__u64 table_bytes;
	__u64 generation;
	__u64 filled;
	__u32 attachments;
	__u32 processes;
	__u64 charged_bytes;
	__u64 huge_pages;
	__u64 huge_fallbacks;
	__u64 reserved;
};

/* A page of the region has fewer rights than others, by MSHARE_IOC_PROTECT. */
#define MSHARE_INFO_PROTECTED	(1U << 0)
/* The region is sealed: MSHARE_IOC_SEAL. */
#define MSHARE_INFO_SEALED	(1U << 1)
/* The descriptor asked is map-only: MSHARE_IOC_HANDLE. */
#define MSHARE_INFO_MAP_ONLY	(1U << 2)

/* New blocks become pages of 2 MiB where they can: MSHARE_IOC_HUGE, or huge=always. */
#define MSHARE_INFO_HUGE	(1U << 3)

/**
 * struct mshare_pids - which processes are attached
 * @pids: Address of an array of __s32 that receives the process ids as seen
 *	from the caller's pid namespace; 0 for a process outside it.
 * @capacity: In: elements in @pids, at most 65536.
 * @count: Out: attached processes.  More than @capacity means that the array
 *	holds only some of them: call again with a larger one.
 */
struct mshare_pids {
	__u64 pids;
	__u32 capacity;
	__u32 count;
};

/**
 * struct mshare_protect - change the protection for every process at once
 * @offset: First byte; a multiple of the page size.
 * @length: Bytes; a multiple of the page size, not 0; the range lies within
 *	the file.
 * @prot: One of MSHARE_PROT_*.
 * @flags: 0.
 *
 * When the call returns, no process can use what was taken away: not through
 * an attachment, not by read(2) or write(2).  What is refused to a load or
 * store is SIGSEGV, to a system call EFAULT or EACCES.  Read-only attachments
 * stay read-only whatever @prot says.  Who holds a reference to a page at that
 * moment (a device, O_DIRECT, a pipe after vmsplice(2), a read(2) under way)
 * can go on reading or writing through it.
 * From the first call on, a region refuses long-term pins for writing (RDMA,
 * io_uring's fixed buffers) on kernels 6.5 and later.
 */
struct mshare_protect {
	__u64 offset;
	__u64 length;
	__u32 prot;
	__u32 flags;
};

#define MSHARE_PROT_NONE	0
#define MSHARE_PROT_READ	1
#define MSHARE_PROT_READWRITE	3

#define MSHARE_IOC_MAGIC	0xBC

/*
 * MSHARE_IOC_INFO - fill a struct mshare_info.
 * Needs any descriptor.  EFAULT.
 */
#define MSHARE_IOC_INFO		_IOR(MSHARE_IOC_MAGIC, 0, struct mshare_info)

/*
 * MSHARE_IOC_PIDS - list the attached processes.
 * Needs any descriptor.  EFAULT; EINVAL: @capacity too large; ENOMEM.
 */
#define MSHARE_IOC_PIDS		_IOWR(MSHARE_IOC_MAGIC, 1, struct mshare_pids)

/*
 * MSHARE_IOC_PROTECT - change the protection of a range of pages.
 * Needs a descriptor open for writing (EBADF) and the owner of the file or
 * CAP_FOWNER (EPERM; also on a sealed region).  EINVAL: range, prot or flags;
 * EFAULT; ENOMEM, ENOSPC (size=): nothing has changed.
 */
#define MSHARE_IOC_PROTECT	_IOW(MSHARE_IOC_MAGIC, 2, struct mshare_protect)

/*
 * MSHARE_IOC_SET_BASE - set the address in struct mshare_info.base.
 * The argument points to a __u64: a multiple of MSHARE_UNIT, not 0, such that
 * the region ends below 2^47 (EINVAL).  Needs a descriptor
 * open for writing (EBADF) and the owner of the file or CAP_FOWNER (EPERM).
 * EBUSY: the region is attached somewhere.  EFAULT.
 *
 * The address may be another region's: both owners have what they asked for,
 * and no process can attach both there.  (Were it refused, any user could keep
 * an address from the others.)  The kernel gives it to no further region.
 */
#define MSHARE_IOC_SET_BASE	_IOW(MSHARE_IOC_MAGIC, 3, __u64)

/*
 * MSHARE_IOC_SEAL - make the region read-only for everybody, forever.
 * When the call returns, nobody can write to it in any way, however it is
 * attached or open, nor change its size; stores are SIGSEGV.  Needs what
 * MSHARE_IOC_PROTECT needs.  EBUSY: somebody holds a reference to a page of the
 * region (a device, O_DIRECT, a pipe after vmsplice(2)) and kept it for about
 * 150 ms; nothing has changed.  References of readers also count, so a process
 * that may read the region can make this fail, as with a memfd's F_SEAL_WRITE.
 * On a sealed region the call does nothing and returns 0; PROTECT, SET_BASE,
 * write(2), ftruncate, fallocate and mapping with PROT_WRITE are EPERM there.
 */
#define MSHARE_IOC_SEAL		_IO(MSHARE_IOC_MAGIC, 4)

/*
 * MSHARE_IOC_HANDLE - return a map-only handle: a new descriptor, close-on-exec,
 * that can map and read the region and ask MSHARE_IOC_INFO and MSHARE_IOC_PIDS.
 * It can do nothing more, not even for root: it cannot be opened again, and has
 * no way to resize, punch, protect, seal, write(2), or change the mode.  It
 * keeps the region.  FIONREAD on it tells the size of when it was made.
 * The argument points to a __u32: 0 for one that maps read-only, or
 * MSHARE_HANDLE_WRITE.  Needs a descriptor open for reading, and for writing
 * with that flag (EBADF); EINVAL: another flag; EPERM: writing, but the region
 * is sealed; EMFILE; EFAULT.  It does not count as an inode of the mount.
 */
#define MSHARE_IOC_HANDLE	_IOW(MSHARE_IOC_MAGIC, 5, __u32)
#define MSHARE_HANDLE_WRITE	(1U << 0)

/*
 * MSHARE_IOC_HUGE - say whether new blocks of the region are pages of 2 MiB.
 * The argument points to a __u32: 1 or 0.  A block is 2 MiB of the file,
 * aligned.  With 1, a block that lies inside the file and has no page yet gets
 * one page of 2 MiB when it is first touched, written or reserved.  Where
 * memory, the control group or size= does not allow that, it gets pages of 4096
 * bytes, which @huge_fallbacks counts.  All attachments then share one leaf for
 * the block.  Protection, holes and the size of the file keep their granularity
 * of 4096 bytes; what concerns a part of a block takes the block's leaf apart.
 * Blocks that have pages stay as they are.
 * Needs what MSHARE_IOC_PROTECT needs.  EINVAL: another value; EFAULT;
 * EOPNOTSUPP: 1, but the mount has huge=never, or the kernel lacks transparent
 * huge pages.
 */
#define MSHARE_IOC_HUGE		_IOW(MSHARE_IOC_MAGIC, 6, __u32)

#endif /* _UAPI_LINUX_MSHAREFS_H */
