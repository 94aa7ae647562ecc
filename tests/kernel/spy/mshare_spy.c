// SPDX-License-Identifier: GPL-2.0
/*
 * For tests/kernel/test_neighbours.py: another user of a client's address
 * space, as KVM or a device with its own page tables is one.
 *
 * Each open /dev/mshare_spy listens to one process.  What is written to it:
 *   watch PID START BYTES	(hexadecimal addresses) listen from now on
 *   hold			let the next invalidation of the range wait
 *   go				let those that wait go on
 * Reading gives "STARTS ENDS INTERVALS RELEASED WAITING": calls of
 * invalidate_range_start and _end that met the range, calls of the interval
 * notifier over the range, whether the process has gone, and how many
 * invalidations wait.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

struct spy {
	struct mmu_notifier notifier;
	struct mmu_interval_notifier interval;
	struct mutex lock;		/* one writer at a time */
	spinlock_t seq_lock;		/* what an interval notifier's user has */
	unsigned long start, end;
	bool watching, hold;
	wait_queue_head_t go;
	atomic_t starts, ends, intervals, released, waiting;
};

static bool spy_meets(struct spy *spy, const struct mmu_notifier_range *range)
{
	return range->start < spy->end && range->end > spy->start;
}

static int spy_start(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	struct spy *spy = container_of(notifier, struct spy, notifier);

	if (!spy_meets(spy, range))
		return 0;
	atomic_inc(&spy->starts);
	if (READ_ONCE(spy->hold) && mmu_notifier_range_blockable(range)) {
		atomic_inc(&spy->waiting);
		wait_event(spy->go, !READ_ONCE(spy->hold));
		atomic_dec(&spy->waiting);
	}
	return 0;
}

static void spy_end(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	struct spy *spy = container_of(notifier, struct spy, notifier);

	if (spy_meets(spy, range))
		atomic_inc(&spy->ends);
}

static void spy_gone(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	atomic_inc(&container_of(notifier, struct spy, notifier)->released);
}

static const struct mmu_notifier_ops spy_ops = {
	.invalidate_range_start	= spy_start,
	.invalidate_range_end	= spy_end,
	.release		= spy_gone,
};

static bool spy_interval(struct mmu_interval_notifier *interval,
			 const struct mmu_notifier_range *range, unsigned long seq)
{
	struct spy *spy = container_of(interval, struct spy, interval);

	spin_lock(&spy->seq_lock);
	mmu_interval_set_seq(interval, seq);
	spin_unlock(&spy->seq_lock);
	atomic_inc(&spy->intervals);
	return true;
}

static const struct mmu_interval_notifier_ops spy_interval_ops = {
	.invalidate	= spy_interval,
};

static int spy_watch(struct spy *spy, int nr, unsigned long start, unsigned long bytes)
{
	struct task_struct *task;
	struct mm_struct *mm;
	struct pid *pid;
	int err;

	if (spy->watching)
		return -EBUSY;
	pid = find_get_pid(nr);
	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (!task)
		return -ESRCH;
	mm = get_task_mm(task);
	put_task_struct(task);
	if (!mm)
		return -ESRCH;

	spy->start = start;
	spy->end = start + bytes;
	spy->notifier.ops = &spy_ops;
	err = mmu_notifier_register(&spy->notifier, mm);
	if (err)
		goto put_mm;
	err = mmu_interval_notifier_insert(&spy->interval, mm, start, bytes, &spy_interval_ops);
	if (err) {
		mmu_notifier_unregister(&spy->notifier, mm);
		goto put_mm;
	}
	spy->watching = true;
put_mm:
	mmput(mm);
	return err;
}

static void spy_let_go(struct spy *spy)
{
	WRITE_ONCE(spy->hold, false);
	wake_up_all(&spy->go);
}

static ssize_t spy_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	struct spy *spy = file->private_data;
	unsigned long start, bytes;
	char text[80];
	int nr, err = 0;

	if (len >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, len))
		return -EFAULT;
	text[len] = 0;
	mutex_lock(&spy->lock);
	if (sscanf(text, "watch %d %lx %lx", &nr, &start, &bytes) == 3)
		err = spy_watch(spy, nr, start, bytes);
	else if (!strcmp(text, "hold"))
		WRITE_ONCE(spy->hold, true);
	else if (!strcmp(text, "go"))
		spy_let_go(spy);
	else
		err = -EINVAL;
	mutex_unlock(&spy->lock);
	return err ?: len;
}

static ssize_t spy_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	struct spy *spy = file->private_data;
	char text[80];
	int n;

	n = scnprintf(text, sizeof(text), "%d %d %d %d %d\n", atomic_read(&spy->starts),
		      atomic_read(&spy->ends), atomic_read(&spy->intervals),
		      atomic_read(&spy->released), atomic_read(&spy->waiting));
	return simple_read_from_buffer(buf, len, pos, text, n);
}

static int spy_open(struct inode *inode, struct file *file)
{
	struct spy *spy = kzalloc(sizeof(*spy), GFP_KERNEL);

	if (!spy)
		return -ENOMEM;
	mutex_init(&spy->lock);
	spin_lock_init(&spy->seq_lock);
	init_waitqueue_head(&spy->go);
	file->private_data = spy;
	return 0;
}

static int spy_release(struct inode *inode, struct file *file)
{
	struct spy *spy = file->private_data;

	spy_let_go(spy);
	if (spy->watching) {
		mmu_interval_notifier_remove(&spy->interval);
		mmu_notifier_unregister(&spy->notifier, spy->notifier.mm);
	}
	kfree(spy);
	return 0;
}

static const struct file_operations spy_file_operations = {
	.owner		= THIS_MODULE,
	.open		= spy_open,
	.read		= spy_read,
	.write		= spy_write,
	.release	= spy_release,
	.llseek		= default_llseek,
};

static struct miscdevice spy_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "mshare_spy",
	.mode	= 0600,
	.fops	= &spy_file_operations,
};
module_misc_device(spy_device);

MODULE_DESCRIPTION("mshare tests: counts what a process's mmu_notifiers are told");
MODULE_LICENSE("GPL");
